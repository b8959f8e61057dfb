"""What every synthesis algorithm promises, and the set that it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import Effort
from zsq_compile.data.hypotheses import JointHypothesis, deal, plausible_together
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.data.posterior import Posterior, best_of
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress
from zsq_compile.synthesis.adversarial.conditional_trainer import ConditionalTrainer
from zsq_compile.synthesis.images.choose_families import FamilyChoice, choose_families
from zsq_compile.synthesis.images.procedural import as_input, check_inputs, draw_samples
from zsq_compile.synthesis.preprocessing.find import find_preprocessing
from zsq_compile.synthesis.signals.run_states import run_states
from zsq_compile.synthesis.task import SynthesisTask

_STARTING_FROM_PICTURES = ("prior", "pixels")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SyntheticSet:
    """Calibration data in the network's own units.

    Attributes:
        inputs: CPU tensors of (count, ...) by input name: float32, or of the input's own type if it takes integers.
        algorithm: name of the generator that made them.
        seed: the seed of the ``torch.Generator`` it was given.
        loss_curve: loss per iteration, averaged over batches; empty for generators that optimise nothing.
        posteriors: what may be the preprocessing, by name of images and of other inputs whose scale is known.
        hypotheses: (count,) int64, which of ``plausible`` each sample is encoded under; None where all are encoded
            under the same.
        families: of pictures that each image input got, where the generator starts from pictures.
        labels: (count,) class that each sample was to show; None for generators without class targets.
        trainer: of the generator network that made the samples, to continue its training; None where there is none.

    """

    inputs: Mapping[str, Tensor]
    algorithm: str
    seed: int
    loss_curve: tuple[float, ...]
    posteriors: Mapping[str, Posterior] = field(default_factory=dict)
    hypotheses: Tensor | None = None
    families: Mapping[str, FamilyChoice] = field(default_factory=dict)
    labels: Tensor | None = None
    trainer: ConditionalTrainer | None = None

    @property
    def preprocessing(self) -> Mapping[str, Preprocessing]:
        """The most probable preprocessing of every input that has one."""
        return best_of(self.posteriors)

    @property
    def plausible(self) -> tuple[JointHypothesis, ...]:
        """What ``hypotheses`` numbers: the plausible preprocessings of all inputs together."""
        return plausible_together(self.posteriors)

    def decode(self, name: str, count: int) -> Tensor:
        """Return the first ``count`` samples of an input as they were before its preprocessing, each by its own."""
        values = self.inputs[name][:count]
        if self.hypotheses is None:
            return self.preprocessing[name].decode(values)
        numbers, ways = self.hypotheses[:count].tolist(), [one.preprocessing[name] for one in self.plausible]
        return torch.cat([ways[number].decode(values[i : i + 1]) for i, number in enumerate(numbers)])

    def with_each(self, change: "Callable[[SyntheticSet], SyntheticSet]") -> "SyntheticSet":
        """Change the samples of every hypothesis as a set of their own, which has that preprocessing for certain.

        ``change`` keeps number and order of the samples it is given. Of the rest of what it returns, that for the most
        probable hypothesis stays.
        """
        if self.hypotheses is None:
            return change(self)
        inputs = {name: values.clone() for name, values in self.inputs.items()}
        changed = None
        for number, one in enumerate(self.plausible):
            own = self.hypotheses == number
            if not own.any():
                continue
            made = change(
                replace(
                    self,
                    inputs={name: values[own] for name, values in self.inputs.items()},
                    posteriors={name: Posterior.certain(way) for name, way in one.preprocessing.items()},
                    hypotheses=None,
                    labels=None if self.labels is None else self.labels[own],
                )
            )
            changed = changed or made
            for name, values in made.inputs.items():
                inputs[name][own] = values
        assert changed is not None  # a set without samples has no hypotheses
        return replace(
            changed, inputs=inputs, posteriors=self.posteriors, hypotheses=self.hypotheses, labels=self.labels
        )


class Generator(Protocol):
    """Makes calibration data for one network."""

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """Return ``count`` samples. The same ``rng`` state on the same machine gives the same bytes.

        Raises:
            SynthesisError: an input cannot be synthesized, or the network lacks what the algorithm needs.

        """


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Synthesized:
    """What an algorithm returns.

    Attributes:
        samples: at least as many as were asked for, images as pixels in [0, 1].
        loss_curve: see SyntheticSet; so are ``labels`` and ``trainer``.

    """

    samples: Mapping[str, Tensor]
    loss_curve: Sequence[float] = ()
    labels: Tensor | None = None
    trainer: ConditionalTrainer | None = None


Algorithm: TypeAlias = Callable[[SynthesisTask, int, torch.Generator], Synthesized]
"""(task, count, rng) -> samples."""


class AlgorithmGenerator:
    """The Generator of an algorithm: finds the preprocessing before it, and encodes its samples behind it.

    Args:
        name: of the algorithm.
        algorithm: makes the samples.
        inputs: of the network.
        preprocessing: of image inputs, where its channels fit; None infers it.
        progress: receives stages, notes and warnings.
        effort: how much work to do.
        known: what real examples have told of the preprocessing, by input.

    """

    def __init__(
        self,
        name: str,
        algorithm: Algorithm,
        inputs: Sequence[InputSpec],
        preprocessing: Preprocessing | None,
        progress: Progress,
        effort: Effort,
        known: Mapping[str, Posterior] = MappingProxyType({}),
    ) -> None:
        self._name = name
        self._algorithm = algorithm
        self._inputs = check_inputs(inputs)
        self._given = preprocessing
        self._progress = progress
        self._effort = effort
        self._known = known

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator."""
        seed = rng.initial_seed()
        posteriors = find_preprocessing(
            self._inputs, self._given, teacher, statistics, rng, self._progress, self._known
        )
        task = SynthesisTask(
            name=self._name,
            teacher=teacher,
            inputs=self._inputs,
            preprocessing=best_of(posteriors),
            layers=statistics.usable,
            effort=self._effort,
            progress=self._progress,
            families=self._choose_families(teacher, best_of(posteriors), statistics, seed),
        )
        made = self._algorithm(task, count, rng)
        hypotheses = deal_hypotheses(posteriors, count, fixed_batch(self._inputs) or 1)
        with torch.no_grad():
            encoded = encode_each(task, made.samples, posteriors, hypotheses, rng)
            encoded = run_states(teacher, self._inputs, encoded)
        return SyntheticSet(
            inputs={spec.name: as_input(spec, encoded[spec.name][:count]) for spec in self._inputs},
            algorithm=self._name,
            seed=seed,
            loss_curve=tuple(made.loss_curve),
            posteriors=posteriors,
            hypotheses=hypotheses,
            families=task.families,
            labels=made.labels,
            trainer=made.trainer,
        )

    def _choose_families(
        self,
        teacher: TorchGraph,
        preprocessing: Mapping[str, Preprocessing],
        statistics: BatchNormStatistics,
        seed: int,
    ) -> dict[str, FamilyChoice]:
        """Choose the families of pictures, where the algorithm starts from pictures."""
        if self._name not in _STARTING_FROM_PICTURES:
            return {}
        return choose_families(teacher, self._inputs, preprocessing, statistics.usable, seed, self._progress)


def deal_hypotheses(posteriors: Mapping[str, Posterior], count: int, feed: int) -> Tensor | None:
    """Deal ``count`` samples to the plausible hypotheses, int64 (count,); None where nothing is open."""
    plausible = plausible_together(posteriors)
    if len(plausible) == 1:
        return None
    return torch.from_numpy(deal([one.probability for one in plausible], count, feed))


def encode_each(
    task: SynthesisTask,
    samples: Mapping[str, Tensor],
    posteriors: Mapping[str, Posterior],
    hypotheses: Tensor | None,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Turn samples into network inputs, each by its own of the plausible preprocessings.

    Signals of another family than that of the best preprocessing are drawn anew.
    """
    if hypotheses is None:
        return task.encode(samples)
    encoded: dict[str, Tensor] = {}
    for number, one in enumerate(plausible_together(posteriors)):
        own = (hypotheses == number).nonzero()[:, 0]
        part = {name: values[own.to(values.device)] for name, values in samples.items()}
        for spec in task.inputs:
            best, other = (chosen.get(spec.name) for chosen in (task.preprocessing, one.preprocessing))
            if best is not None and other is not None and other.family != best.family:
                part[spec.name] = draw_samples(spec, len(own), rng, other).to(part[spec.name].device)
        for name, values in replace(task, preprocessing=one.preprocessing).encode(part).items():
            encoded.setdefault(name, values.new_empty(len(hypotheses), *values.shape[1:]))[own.to(values.device)] = (
                values
            )
    return encoded
