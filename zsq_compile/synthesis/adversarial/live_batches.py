"""Batches for a network that is being distilled, from a generator that continues to learn during the distillation.

For every few steps of the student there is one of the generator, against the student as it is at that moment; its
samples are handed out batch by batch, and a rest that fills none is dropped. So no sample is ever seen twice, and the
generator learns what the student gets wrong (see adversarial/losses.py). The diversity of its samples is measured all
along, on the teacher's features.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zsq_compile.config.conditional_generators import AdadfqConfig
from zsq_compile.config.distillation import Adversary
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.synthesis.adversarial.conditional_trainer import ConditionalTrainer
from zsq_compile.synthesis.adversarial.diversity import Diversity, RunningMeans
from zsq_compile.synthesis.adversarial.student_loss import Student, StudentLoss
from zsq_compile.synthesis.micro_batches import run_micro_batches
from zsq_compile.synthesis.probe import find_features, flat_features

_FEWEST = 16  # samples of a generator's step, whose networks normalise by the moments of its batch


class LiveBatches:
    """Makes batches for a student, and trains the generator against it.

    Args:
        trainer: of the generator, which has been trained without the student.
        adversary: which loss against the student is added.
        temperature: of the discrepancy.
        weight: of the added loss.
        ratio: batches that one step of the generator serves.
        bounds: of AdaDFQ, by default its authors'.

    Attributes:
        description: all settings in words.

    """

    def __init__(
        self,
        trainer: ConditionalTrainer,
        *,
        adversary: Adversary,
        temperature: float,
        weight: float,
        ratio: int,
        bounds: AdadfqConfig | None = None,
    ) -> None:
        self._trainer, self._ratio = trainer, ratio
        self.description = f"{trainer.config!r} {adversary} {temperature} {weight} {ratio} {bounds}"
        self._student_loss = StudentLoss(
            adversary,
            trainer.scores,
            temperature=temperature,
            weight=weight,
            bounds=bounds,
            micro_batch_size=trainer.micro_batch_size,
        )
        self._diversity, self._means = Diversity(), RunningMeans()
        self._features: str | None = None
        self._stock: dict[str, Tensor] = {}

    def take(self, count: int, student: Student, rng: torch.Generator) -> dict[str, Tensor]:
        """Return ``count`` samples that were never seen: network inputs by name, on the teacher's device.

        Args:
            count: samples.
            student: the quantized network as it is now.
            rng: all randomness.

        """
        if min((len(value) for value in self._stock.values()), default=0) < count:
            self._stock = self._generate(max(count * self._ratio, _FEWEST), student, rng)
        taken = {name: value[:count] for name, value in self._stock.items()}
        self._stock = {name: value[count:] for name, value in self._stock.items()}
        return taken

    def _generate(self, count: int, student: Student, rng: torch.Generator) -> dict[str, Tensor]:
        made = self._trainer.step(count, rng, self._student_loss.extra(student, rng))
        distance = self._student_loss.measure(student, made)
        diversity = self._diversity(self._find_features(made.inputs, made.scores), made.labels)
        self._means.add({**diversity, "discrepancy": distance, "generator_loss": made.loss})
        return dict(made.inputs)

    def _find_features(self, inputs: Mapping[str, Tensor], scores: Tensor) -> Tensor:
        """Return (samples, size) penultimate features; the scores where the network has none."""
        teacher, size = self._trainer.teacher, self._trainer.micro_batch_size(len(scores))
        if self._features is None:
            few = {name: value[:size] for name, value in inputs.items()}
            self._features = find_features(teacher, few, self._trainer.scores) or self._trainer.scores
        wanted = self._features
        if wanted == self._trainer.scores:
            return flat_features(scores)

        def run(start: int, stop: int) -> Tensor:
            with reduced_precision(scores.device):
                part = {name: value[start:stop] for name, value in inputs.items()}
                return flat_features(teacher.run(part, (wanted,))[wanted])

        with torch.no_grad():
            parts, _ = run_micro_batches(run, len(scores), size)
        return torch.cat(parts)

    def measured(self) -> dict[str, float] | None:
        """Means since the last call of what is named in ``Diversity``, ``discrepancy`` and ``generator_loss``."""
        return self._means.take()

    def state(self) -> dict[str, Any]:
        """Return all that ``restore`` needs, as tensors, numbers, and lists and mappings of them."""
        return {
            "source": self._trainer.state(),
            "discrepancy": self._student_loss.mean,
            "diversity": self._diversity.state(),
            "means": self._means.state(),
            "stock": {name: value.clone() for name, value in self._stock.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what ``state`` gave."""
        self._trainer.restore(state["source"])
        self._student_loss.mean = state["discrepancy"]
        self._diversity.restore(state["diversity"])
        self._means.restore(state["means"])
        self._stock = dict(state["stock"])
