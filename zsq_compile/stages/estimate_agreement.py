"""Stage: estimate the agreement with the float model on real data, without any."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from backends.memory import giving_back
from zsq_compile.data.batch_axes import FIRST, BatchAxes
from zsq_compile.data.hypotheses import JointHypothesis, plausible_together
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.stages.answering_family import ANSWERING, AnsweringFamily
from zsq_compile.synthesis.filters.examples import Examples, vary_examples
from zsq_compile.synthesis.images.families import FAMILIES, input_families
from zsq_compile.tasks.task import Task
from zsq_compile.verification.agreement_estimate import (
    SHIFT,
    SLOPE,
    SPREAD,
    AgreementEstimate,
    Family,
    estimate_from_families,
)
from zsq_compile.verification.hypothesis_estimate import HypothesisEstimate, span
from zsq_compile.verification.measure_families import measure_families
from zsq_compile.verification.real_family import lower_by_real
from zsq_compile.verification.task_estimate import TASK_FIT, TaskFit, estimate_task

ASSUMED_SPREAD = 1.0
"""What SPREAD is where one preprocessing is plausible that nothing proves, and that may be another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Constants of the estimate, which ``benchmarks/confidence.py`` fits, each network left out in turn.

    ``task`` has those of networks that do not choose a class, which ``benchmarks/task_estimates.py`` fits.
    """

    shift: float = SHIFT
    slope: float = SLOPE
    spread: float = SPREAD
    assumed_spread: float = ASSUMED_SPREAD
    task: TaskFit = TASK_FIT


FIT = Fit()
"""Those in use."""

_HIGH_CONFIDENCE = "high confidence"
_REAL = "real inputs"
_SEED_OFFSET = 1_000_003  # from the seed that calibration data was made with


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EstimateInputs:
    """Synthetic inputs on which any quantized file of one float model can be judged.

    Attributes:
        inputs: of the network.
        posteriors: what may be the preprocessing, by name of the inputs that have one.
        families: (count, ...) by name of the family and of the input, seen by no calibration; None where there are
            no synthetic values for an input. Where several preprocessings are plausible each has all
            families, see ``hypotheses``.
        hypotheses: number of the plausible preprocessing that a family is encoded under, by its name.
        shown: the user has given real samples, which show how an input is prepared where nothing is open.
        high_confidence: images with a high score of the float network, by input, to find files that clip large scores;
            None where there are none.
        task: what the network is for; None takes it for a classifier.

    """

    inputs: Sequence[InputSpec]
    posteriors: Mapping[str, Posterior]
    families: Mapping[str, Mapping[str, NDArray[Any]]] | None
    hypotheses: Mapping[str, int] = field(default_factory=dict)
    shown: bool = False
    high_confidence: Mapping[str, NDArray[Any]] | None = None
    task: Task | None = None

    @property
    def samples(self) -> Mapping[str, Mapping[str, NDArray[Any]]]:
        """All inputs that a file is to be run on: the families and the high-confidence images."""
        families = self.families or {}
        return families if self.high_confidence is None else {**families, _HIGH_CONFIDENCE: self.high_confidence}

    @property
    def proven(self) -> bool:
        """Whether something proves the preprocessing of every input.

        That is the user, real samples, the input's type, or statistics that point to one. Where a network without
        statistics is looked at (``ranked``), the one plausible preprocessing is not proven.
        """
        if any(one.is_open for one in self.posteriors.values()):
            return False
        found = [self.posteriors.get(spec.name) for spec in self.inputs]
        return self.shown or all(one is not None and one.best.is_proven for one in found)

    def estimate(self, measured: Sequence[Family], source: str, *, fit: Fit = FIT) -> AgreementEstimate:
        """Estimate the agreement on real data, over all plausible preprocessings.

        A file that keeps fewer of the high-confidence decisions than the interval allows clips scores that real images
        reach and the families do not: it gets no estimate.

        Args:
            measured: one file, on ``samples``.
            source: see AgreementEstimate.calibration_source.
            fit: constants to use instead of those in use.

        """
        kept = next((one.agreement for one in measured if one.name == _HIGH_CONFIDENCE), None)
        families = [one for one in measured if one.name != _HIGH_CONFIDENCE]
        found = replace(self._spanned(families, source, fit), high_confidence=kept, proven=self.proven)
        if kept is None or found.low is None or kept >= found.low:
            return found
        reason = f"only {kept:.0%} of high-confidence decisions are kept: activation ranges clip too much"
        return replace(found, estimate=None, low=None, high=None, reason=reason)

    def _spanned(self, measured: Sequence[Family], source: str, fit: Fit) -> AgreementEstimate:
        """Estimate under each plausible preprocessing, and span the intervals."""
        plausible = plausible_together(self.posteriors)
        if len(plausible) == 1 or self.families is None:
            return self._under(plausible[0], measured, source, fit)
        made = []
        for number, one in enumerate(plausible):
            own = [family for family in measured if self.hypotheses[family.name] == number]
            made.append((one, self._under(one, own, source, fit)))
        hypotheses = tuple(
            HypothesisEstimate(
                words=one.words(),
                probability=one.probability,
                estimate=found.estimate,
                low=found.low,
                high=found.high,
                sqnr_db=min((family.sqnr_db for family in found.families if family.sqnr_db is not None), default=None),
            )
            for one, found in made
        )
        spanned = span(hypotheses)
        estimate, low, high = spanned or (None, None, None)
        reason = None if spanned else next((found.reason for _, found in made if found.reason is not None), None)
        whole = replace(made[0][1], families=tuple(measured), hypotheses=hypotheses, reason=reason)
        return replace(whole, estimate=estimate, low=low, high=high)

    def _under(
        self, hypothesis: JointHypothesis, measured: Sequence[Family], source: str, fit: Fit
    ) -> AgreementEstimate:
        """Estimate if the inputs are prepared in one way."""
        if self.families is None:
            return self._without((), source, "there are no synthetic values for an input")
        found = [hypothesis.preprocessing.get(spec.name) for spec in self.inputs]
        source = source if self.proven else f"{source}, with an assumed input"
        if any(one is not None and one.source == "unexplained" for one in found):
            reason = "no preprocessing that was tried brings images near its batch normalisation statistics"
            return self._without(measured, source, reason)
        if self._has_other_task:
            return self._of_task(measured, source, fit.task)
        if not (len(self.inputs) == 1 and self.inputs[0].is_image and found[0] is not None):
            return self._without(measured, source, "its error is known only for networks with one image input")
        doubtful = not (found[0].is_proven or self.shown or self.posteriors[self.inputs[0].name].is_open)
        spread = fit.assumed_spread if doubtful else fit.spread
        synthetic = [one for one in measured if not one.name.startswith(_REAL)]
        real = next((one for one in measured if one.name.startswith(_REAL)), None)
        made = estimate_from_families(synthetic, source, shift=fit.shift, slope=fit.slope, spread=spread)
        return made if real is None else lower_by_real(made, real, spread)

    @property
    def _has_other_task(self) -> bool:
        return self.task is not None and self.task.kind != "classification"

    def _of_task(self, measured: Sequence[Family], source: str, fit: TaskFit) -> AgreementEstimate:
        """Estimate what is kept of what a network says that does not choose a class."""
        synthetic = [one for one in measured if not one.name.startswith(_REAL)]
        real = next((one for one in measured if one.name.startswith(_REAL)), None)
        open_too = any(one.is_open for one in self.posteriors.values())  # each is then seen by itself
        assumed = not (self.proven or open_too)
        made = estimate_task(synthetic, source, assumed=assumed, fit=fit)
        spread = fit.assumed_spread if assumed else fit.spread
        return made if real is None else lower_by_real(made, real, spread)

    def _without(self, measured: Sequence[Family], source: str, reason: str) -> AgreementEstimate:
        estimate = estimate_task if self._has_other_task else estimate_from_families
        return estimate(measured, source, reason=reason)


def make_estimate_inputs(
    inputs: Sequence[InputSpec],
    posteriors: Mapping[str, Posterior],
    *,
    seed: int = 0,
    shown: bool = False,
    examples: Examples | None = None,
    task: Task | None = None,
    answering: AnsweringFamily | None = None,
) -> EstimateInputs:
    """Make the families of inputs, from a seed that follows from ``seed`` and differs from it.

    Under every plausible preprocessing they are the same pictures. For ``shown`` and ``task`` see EstimateInputs. Real
    ``examples``, with variants of them, are a family of their own, and so are the samples that ``answering`` moves
    until a network answers that finds, reads or hears something.
    """
    if not all(spec.can_be_made for spec in inputs):
        return EstimateInputs(inputs=inputs, posteriors=posteriors, families=None, shown=shown, task=task)
    plausible = plausible_together(posteriors)
    families: dict[str, dict[str, NDArray[Any]]] = {}
    numbers: dict[str, int] = {}
    for number, one in enumerate(plausible):
        with giving_back():  # what making them takes would be kept beside what the runs take
            rng = torch.Generator().manual_seed(seed + _SEED_OFFSET)
            made = input_families(inputs, one.preprocessing, rng)
            if examples is not None:
                first = next(iter(made.values()))
                count = len(next(iter(first.values())))
                made[_REAL] = {**first, **vary_examples(examples.data, inputs, one.preprocessing, count, rng)}
            if answering is not None:
                own = answering.make(inputs, one.preprocessing, made[FAMILIES[0]], len(plausible), rng)
                made |= {} if own is None else {ANSWERING: own}
        for name, samples in made.items():
            key = name if len(plausible) == 1 else f"{name}, {number + 1}: {one.words()}"
            families[key] = {name: tensor.numpy() for name, tensor in samples.items()}
            numbers[key] = number
    return EstimateInputs(
        inputs=inputs, posteriors=posteriors, families=families, hypotheses=numbers, shown=shown, task=task
    )


def estimate_agreement(
    original: onnx.ModelProto,
    emitted: Path,
    inputs: EstimateInputs,
    source: str,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    config: Mapping[str, str] | None = None,
    axes: BatchAxes = FIRST,
    uneven: Collection[str] = (),
) -> AgreementEstimate:
    """Run the float model and a quantized file on ``inputs``, and estimate their agreement on real data.

    ``config`` has entries of the target's session options. Outputs whose size depends on the data, ``uneven``, take no
    part.

    Raises:
        ValidationError: the runtime failed.

    """
    samples = inputs.samples
    if not samples:
        return inputs.estimate((), source)
    measured = measure_families(
        original, emitted, samples, providers=providers, config=config, axes=axes, uneven=uneven, task=inputs.task
    )
    return inputs.estimate(measured, source)
