"""One more term of a generator's loss, from how a quantized student differs from the teacher on its samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from zsq_compile.config.conditional_generators import AdadfqConfig
from zsq_compile.config.distillation import Adversary
from zsq_compile.differentiable.class_scores import class_logits
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.synthesis.adversarial.conditional_trainer import ExtraLoss, GeneratedBatch
from zsq_compile.synthesis.adversarial.losses import (
    discrepancy,
    draw_margin,
    gaussian_loss,
    margin_loss,
    two_sided_loss,
)
from zsq_compile.synthesis.micro_batches import run_micro_batches

Student: TypeAlias = Callable[[Mapping[str, Tensor], Sequence[str]], Mapping[str, Tensor]]
"""Runs the quantized network from its inputs to named outputs, differentiable to the inputs and to nothing else."""

_DECAY = 0.9  # of the running mean of the discrepancy, at each generator step


class StudentLoss:
    """Rewards a generator for samples that the student gets wrong.

    Args:
        kind: which loss, see adversarial/losses.py.
        scores: name of the output with class scores.
        temperature: of the discrepancy.
        weight: of the loss in that of the generator.
        bounds: of AdaDFQ, by default its authors'.
        micro_batch_size: how many of so many samples the student takes at a time; by default all.

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
        bounds: AdadfqConfig | None = None,
        micro_batch_size: Callable[[int], int] = lambda count: count,
    ) -> None:
        self._kind, self._scores, self._micro_batch_size = kind, scores, micro_batch_size
        self._temperature, self._weight, self._bounds = temperature, weight, bounds or AdadfqConfig()
        self.mean: float | None = None
        self._last = 0.0

    def extra(self, student: Student, rng: torch.Generator) -> ExtraLoss | None:
        """Return the term of one generator step against a student; None where the student does not count."""
        if self._kind == "none":
            return None

        def loss(inputs: Mapping[str, Tensor], scores: Tensor, labels: Tensor) -> Tensor:
            theirs, mine = class_logits(scores), self._run(student, inputs)
            distances = discrepancy(theirs, mine, self._temperature)
            mean = self._update(distances)
            match self._kind:
                case "margin":
                    term = margin_loss(distances, draw_margin(mean, rng), mean)
                case "gaussian":
                    term = gaussian_loss(distances, mean)
                case _:
                    term = two_sided_loss(theirs, mine, labels, self._bounds)
            return self._weight * term

        return loss

    def measure(self, student: Student, made: GeneratedBatch) -> float:
        """Mean discrepancy of the batch of a step, measured now where the step did not need it."""
        if self._kind == "none":
            with torch.no_grad():
                mine = self._run(student, made.inputs)
            self._update(discrepancy(class_logits(made.scores), mine, self._temperature))
        return self._last

    def _run(self, student: Student, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (samples, classes) logits of the student."""
        count = min(len(value) for value in inputs.values())
        device = next(iter(inputs.values())).device

        def run(start: int, stop: int) -> Tensor:
            with reduced_precision(device):
                part = {name: value[start:stop] for name, value in inputs.items()}
                return student(part, (self._scores,))[self._scores]

        parts, _ = run_micro_batches(run, count, self._micro_batch_size(count))
        return class_logits(torch.cat(parts))

    def _update(self, distances: Tensor) -> float:
        """Return the mean discrepancy of the batches before, or of this one where it is the first."""
        self._last = float(distances.detach().mean())
        before = self._last if self.mean is None else self.mean
        self.mean = _DECAY * before + (1.0 - _DECAY) * self._last
        return before
