"""The student as the opponent of a generator: one more term of the generator's loss, from what both networks say."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from zsq_compile.config.conditional_generators import AdadfqConfig
from zsq_compile.config.distillation import Adversary
from zsq_compile.differentiable.class_scores import class_logits
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.synthesis.adversarial.losses import (
    discrepancy,
    drawn_margin,
    gaussian_loss,
    margin_loss,
    two_sided_loss,
)
from zsq_compile.synthesis.adversarial.source import Batch, Extra
from zsq_compile.synthesis.micro_batches import in_pieces

Student: TypeAlias = Callable[[Mapping[str, Tensor], Sequence[str]], Mapping[str, Tensor]]
"""Runs the quantized network from its inputs to named outputs, differentiable to the inputs and to nothing else."""

_KEPT = 0.9  # of the running mean of the discrepancy, at each generator step


class Opponent:
    """What a generator gains from the student's mistakes.

    Args:
        kind: which loss, see adversarial.py.
        scores: name of the output of class scores.
        temperature: of the discrepancy.
        weight: of the loss in that of the generator.
        numbers: of AdaDFQ, by default its authors'.
        piece: says how many of so many samples the student takes at a time; by default all.

    Attributes:
        mean: running mean of the discrepancy; None before the first batch.

    """

    def __init__(
        self,
        kind: Adversary,
        scores: str,
        *,
        temperature: float,
        weight: float,
        numbers: AdadfqConfig | None = None,
        piece: Callable[[int], int] = lambda count: count,
    ) -> None:
        self._kind, self._scores, self._piece = kind, scores, piece
        self._temperature, self._weight, self._numbers = temperature, weight, numbers or AdadfqConfig()
        self.mean: float | None = None
        self._last = 0.0

    def extra(self, student: Student, rng: torch.Generator) -> Extra | None:
        """Return the term of one generator step against a student; None where the student does not count."""
        if self._kind == "none":
            return None

        def loss(inputs: Mapping[str, Tensor], scores: Tensor, labels: Tensor) -> Tensor:
            theirs, mine = class_logits(scores), self._asked(student, inputs)
            distances = discrepancy(theirs, mine, self._temperature)
            mean = self._remembered(distances)
            match self._kind:
                case "margin":
                    term = margin_loss(distances, drawn_margin(mean, rng), mean)
                case "gaussian":
                    term = gaussian_loss(distances, mean)
                case _:
                    term = two_sided_loss(theirs, mine, labels, self._numbers)
            return self._weight * term

        return loss

    def measured(self, student: Student, made: Batch) -> float:
        """Mean discrepancy of the batch of a step, measured now where the step did not need it."""
        if self._kind == "none":
            with torch.no_grad():
                mine = self._asked(student, made.inputs)
            self._remembered(discrepancy(class_logits(made.scores), mine, self._temperature))
        return self._last

    def _asked(self, student: Student, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (samples, classes) logits of the student."""
        count = min(len(value) for value in inputs.values())
        device = next(iter(inputs.values())).device

        def asked(start: int, stop: int) -> Tensor:
            with reduced_precision(device):
                fed = {name: value[start:stop] for name, value in inputs.items()}
                return student(fed, (self._scores,))[self._scores]

        parts, _ = in_pieces(asked, count, self._piece(count))
        return class_logits(torch.cat(parts))

    def _remembered(self, distances: Tensor) -> float:
        """Return the mean discrepancy of the batches before, or of this one where it is the first."""
        self._last = float(distances.detach().mean())
        before = self._last if self.mean is None else self.mean
        self.mean = _KEPT * before + (1.0 - _KEPT) * self._last
        return before
