"""Stage: estimate the agreement with the float model on real data, without any."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from backends.memory import giving_back
from zsq_compile.data.batch_axes import FIRST, BatchAxes
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.synthesis.images.families import input_families
from zsq_compile.verification.agreement_estimate import (
    SPREAD,
    AgreementEstimate,
    Family,
    estimate_from_families,
    measure_families,
)

ASSUMED_SPREAD = 1.0
"""What SPREAD is where the preprocessing was assumed, and may be another."""

_HIGH_CONFIDENCE = "high confidence"
_SEED_OFFSET = 1_000_003  # from the seed that calibration data was made with


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EstimateInputs:
    """Synthetic inputs on which any quantized file of one float model can be judged.

    Attributes:
        inputs: of the network.
        preprocessing: of image inputs, by name.
        families: (count, ...) by name of the family and of the input, seen by no calibration; None where there are no
            synthetic values for an input.
        high_confidence: images with a high score of the float network, by input, to find files that clip large scores;
            None where there are none.

    """

    inputs: Sequence[InputSpec]
    preprocessing: Mapping[str, Preprocessing]
    families: Mapping[str, Mapping[str, NDArray[Any]]] | None
    high_confidence: Mapping[str, NDArray[Any]] | None = None

    @property
    def samples(self) -> Mapping[str, Mapping[str, NDArray[Any]]]:
        """All inputs that a file is to be run on: the families and the high-confidence images."""
        families = self.families or {}
        return families if self.high_confidence is None else {**families, _HIGH_CONFIDENCE: self.high_confidence}

    def estimate(self, measured: Sequence[Family], source: str) -> AgreementEstimate:
        """Estimate the agreement on real data.

        A file that keeps fewer of the high-confidence decisions than the interval allows clips scores that real images
        reach and the families do not: it gets no estimate.

        Args:
            measured: one file, on ``samples``.
            source: see AgreementEstimate.calibration_source.

        """
        kept = next((one.agreement for one in measured if one.name == _HIGH_CONFIDENCE), None)
        families = [one for one in measured if one.name != _HIGH_CONFIDENCE]
        found = replace(self._from_families(families, source), high_confidence=kept)
        if kept is None or found.low is None or kept >= found.low:
            return found
        reason = f"only {kept:.0%} of high-confidence decisions are kept: activation ranges clip too much"
        return replace(found, estimate=None, low=None, high=None, reason=reason)

    def _from_families(self, measured: Sequence[Family], source: str) -> AgreementEstimate:
        if self.families is None:
            return estimate_from_families((), source, reason="there are no synthetic values for an input")
        found = [self.preprocessing.get(spec.name) for spec in self.inputs]
        doubtful = any(one is None or one.source in ("assumed", "unexplained") for one in found)
        source = f"{source}, with an assumed input" if doubtful else source
        if not (len(self.inputs) == 1 and self.inputs[0].is_image and found[0] is not None):
            reason = "its error is known only for networks with one image input"
            return estimate_from_families(measured, source, reason=reason)
        if found[0].source == "unexplained":
            reason = "no preprocessing that was tried brings images near its batch normalisation statistics"
            return estimate_from_families(measured, source, reason=reason)
        return estimate_from_families(measured, source, spread=ASSUMED_SPREAD if doubtful else SPREAD)


def make_estimate_inputs(
    inputs: Sequence[InputSpec], preprocessing: Mapping[str, Preprocessing], *, seed: int = 0
) -> EstimateInputs:
    """Make the families of inputs, from a seed that follows from ``seed`` and differs from it."""
    if not all(spec.can_be_made for spec in inputs):
        return EstimateInputs(inputs=inputs, preprocessing=preprocessing, families=None)
    with giving_back():  # what making them takes would be kept beside what the runs take
        families = input_families(inputs, preprocessing, torch.Generator().manual_seed(seed + _SEED_OFFSET))
    arrays = {name: {key: tensor.numpy() for key, tensor in made.items()} for name, made in families.items()}
    return EstimateInputs(inputs=inputs, preprocessing=preprocessing, families=arrays)


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
        original, emitted, samples, providers=providers, config=config, axes=axes, uneven=uneven
    )
    return inputs.estimate(measured, source)
