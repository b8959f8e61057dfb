"""Batches for a network that is being quantized, made by a generator that goes on learning beside it.

For every few steps of the student there is one of the generator, against the student as it is at that moment; what
that step made is handed out piece by piece. So no sample is ever seen twice, and the generator is told what the student
does not copy yet (see adversarial.py). How alike its samples become is measured all along, on the teacher's features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.distill_config import Adversary
from zsq_compile.synthesis.adversarial import (
    TwoSided,
    discrepancy,
    drawn_margin,
    gaussian_loss,
    margin_loss,
    two_sided_loss,
)
from zsq_compile.synthesis.diversity import Diversity, Means, flat_features
from zsq_compile.synthesis.probe import find_features

Student = Callable[[Mapping[str, Tensor], Sequence[str]], Mapping[str, Tensor]]
"""Runs the quantized network from its inputs to named outputs, differentiable to the inputs and to nothing else."""

_KEPT = 0.9  # of the running mean of the discrepancy, at each generator step


class Made(Protocol):
    """One step of a source: what it made, and what the teacher said of it."""

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """Network inputs by name, detached."""

    @property
    def labels(self) -> Tensor:
        """(samples,) asked classes."""

    @property
    def scores(self) -> Tensor:
        """(samples, classes) of the teacher, detached."""

    @property
    def loss(self) -> float:
        """Of the generator."""


Extra = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""Adds to a generator's loss: from network inputs, the teacher's scores and the asked classes."""


class Source(Protocol):
    """A conditional generator that can go on learning, see ``ConditionalSource``."""

    @property
    def scores(self) -> str:
        """Name of the teacher's output of class scores."""

    @property
    def config(self) -> object:
        """Settings, whose ``repr`` tells them all."""

    @property
    def teacher(self) -> TorchGraph:
        """The float network."""

    def step(self, count: int, rng: torch.Generator, extra: Extra | None = None) -> Made:
        """Train the generator for one step, and return what it made."""

    def state(self) -> dict[str, Any]:
        """Return all that ``restore`` needs."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what ``state`` gave."""


class Opponent:
    """What a generator gains from the student's mistakes.

    Args:
        kind: which loss, see adversarial.py.
        scores: name of the output of class scores.
        temperature: of the discrepancy.
        weight: of the loss in that of the generator.
        numbers: of AdaDFQ.

    Attributes:
        mean: running mean of the discrepancy; None before the first batch.

    """

    def __init__(
        self, kind: Adversary, scores: str, temperature: float, weight: float, numbers: TwoSided | None = None
    ) -> None:
        self._kind, self._scores, self._temperature, self._weight = kind, scores, temperature, weight
        self._numbers = numbers or TwoSided()
        self.mean: float | None = None
        self._last = 0.0

    def extra(self, student: Student, rng: torch.Generator) -> Extra | None:
        """Return the term of one generator step against a student; None where the student does not count."""
        if self._kind == "none":
            return None

        def loss(inputs: Mapping[str, Tensor], scores: Tensor, labels: Tensor) -> Tensor:
            with reduced_precision(scores.device):
                made = student(inputs, (self._scores,))[self._scores]
            distances = discrepancy(scores, made, self._temperature)
            mean = self._remember(distances)
            match self._kind:
                case "margin":
                    term = margin_loss(distances, drawn_margin(mean, rng), mean)
                case "gaussian":
                    term = gaussian_loss(distances, mean)
                case _:
                    term = two_sided_loss(scores, made, labels, self._numbers)
            return self._weight * term

        return loss

    def measured(self, student: Student, made: Made) -> float:
        """Mean discrepancy of the batch of a step, measured now where the step did not need it."""
        if self._kind == "none":
            with torch.no_grad(), reduced_precision(made.scores.device):
                scores = student(made.inputs, (self._scores,))[self._scores]
            self._remember(discrepancy(made.scores, scores, self._temperature))
        return self._last

    def _remember(self, distances: Tensor) -> float:
        """Return the mean discrepancy of the batches before, or of this one where it is the first."""
        self._last = float(distances.detach().mean())
        before = self._last if self.mean is None else self.mean
        self.mean = _KEPT * before + (1.0 - _KEPT) * self._last
        return before


class LiveBatches:
    """Makes batches for a student, and learns from it.

    Args:
        source: the generator, trained already.
        adversary: which loss against the student is added.
        temperature: of the discrepancy.
        weight: of the added loss.
        ratio: batches that one step of the generator serves.
        fixed: samples that the network insists on, or None: then one step makes as many.

    Attributes:
        description: all of that in words.

    """

    def __init__(
        self,
        source: Source,
        *,
        adversary: Adversary,
        temperature: float,
        weight: float,
        ratio: int,
        fixed: int | None = None,
    ) -> None:
        self._source, self._ratio, self._fixed = source, ratio, fixed
        self.description = f"{source.config!r} {adversary} {temperature} {weight} {ratio} {fixed}"
        self._opponent = Opponent(adversary, source.scores, temperature, weight)
        self._diversity, self._means = Diversity(), Means()
        self._features: str | None = None
        self._stock: dict[str, Tensor] = {}

    def take(self, count: int, student: Student, rng: torch.Generator) -> dict[str, Tensor]:
        """Return ``count`` samples that were never seen: network inputs by name, on the teacher's device.

        Args:
            count: samples; at most the batch that the network insists on.
            student: the quantized network as it is now.
            rng: all randomness comes from it, now.

        """
        if min((len(value) for value in self._stock.values()), default=0) < count:
            self._stock = self._made(self._fixed or count * self._ratio, student, rng)
        taken = {name: value[:count] for name, value in self._stock.items()}
        self._stock = {name: value[count:] for name, value in self._stock.items()}
        return taken

    def _made(self, count: int, student: Student, rng: torch.Generator) -> dict[str, Tensor]:
        made = self._source.step(count, rng, self._opponent.extra(student, rng))
        distance = self._opponent.measured(student, made)
        spread = self._diversity(self._seen(made.inputs, made.scores), made.labels)
        self._means.add({**spread, "discrepancy": distance, "generator_loss": float(made.loss)})
        return dict(made.inputs)

    def _seen(self, inputs: Mapping[str, Tensor], scores: Tensor) -> Tensor:
        """Return (samples, size) penultimate features; the scores where the network has none."""
        if self._features is None:
            self._features = find_features(self._source.teacher, inputs, self._source.scores) or self._source.scores
        if self._features == self._source.scores:
            return flat_features(scores)
        with torch.no_grad(), reduced_precision(scores.device):
            return flat_features(self._source.teacher.run(inputs, (self._features,))[self._features])

    def measured(self) -> dict[str, float] | None:
        """Means since the last call of what is named in ``Diversity``, ``discrepancy`` and ``generator_loss``."""
        return self._means.taken()

    def state(self) -> dict[str, Any]:
        """Return all that ``restore`` needs, as tensors, numbers, and lists and mappings of them."""
        return {
            "source": self._source.state(),
            "discrepancy": self._opponent.mean,
            "diversity": self._diversity.state(),
            "means": self._means.state(),
            "stock": {name: value.clone() for name, value in self._stock.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what ``state`` gave."""
        self._source.restore(state["source"])
        self._opponent.mean = state["discrepancy"]
        self._diversity.restore(state["diversity"])
        self._means.restore(state["means"])
        self._stock = dict(state["stock"])
