"""Batches for a network that is being quantized, made by a generator that goes on learning beside it.

For every few steps of the student there is one of the generator, against the student as it is at that moment; what
that step made is handed out batch by batch, and a rest that fills none is dropped. So no sample is ever seen twice, and
the generator is told what the student does not copy yet (see adversarial.py). How alike its samples become is measured
all along, on the teacher's features.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zsq_compile.config.conditional_generators import AdadfqConfig
from zsq_compile.config.distillation import Adversary
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.synthesis.adversarial.diversity import Diversity, Means
from zsq_compile.synthesis.adversarial.opponent import Opponent, Student
from zsq_compile.synthesis.adversarial.source import Source
from zsq_compile.synthesis.micro_batches import in_pieces
from zsq_compile.synthesis.probe import find_features, flat_features

_FEWEST = 16  # samples of a generator's step, whose networks normalise by the moments of its batch


class LiveBatches:
    """Makes batches for a student, and learns from it.

    Args:
        source: the generator, trained already.
        adversary: which loss against the student is added.
        temperature: of the discrepancy.
        weight: of the added loss.
        ratio: batches that one step of the generator serves.
        numbers: of AdaDFQ, by default its authors'.

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
        numbers: AdadfqConfig | None = None,
    ) -> None:
        self._source, self._ratio = source, ratio
        self.description = f"{source.config!r} {adversary} {temperature} {weight} {ratio} {numbers}"
        self._opponent = Opponent(
            adversary, source.scores, temperature=temperature, weight=weight, numbers=numbers, piece=source.piece
        )
        self._diversity, self._means = Diversity(), Means()
        self._features: str | None = None
        self._stock: dict[str, Tensor] = {}

    def take(self, count: int, student: Student, rng: torch.Generator) -> dict[str, Tensor]:
        """Return ``count`` samples that were never seen: network inputs by name, on the teacher's device.

        Args:
            count: samples.
            student: the quantized network as it is now.
            rng: all randomness comes from it, now.

        """
        if min((len(value) for value in self._stock.values()), default=0) < count:
            self._stock = self._made(max(count * self._ratio, _FEWEST), student, rng)
        taken = {name: value[:count] for name, value in self._stock.items()}
        self._stock = {name: value[count:] for name, value in self._stock.items()}
        return taken

    def _made(self, count: int, student: Student, rng: torch.Generator) -> dict[str, Tensor]:
        made = self._source.step(count, rng, self._opponent.extra(student, rng))
        distance = self._opponent.measured(student, made)
        spread = self._diversity(self._seen(made.inputs, made.scores), made.labels)
        self._means.add({**spread, "discrepancy": distance, "generator_loss": made.loss})
        return dict(made.inputs)

    def _seen(self, inputs: Mapping[str, Tensor], scores: Tensor) -> Tensor:
        """Return (samples, size) penultimate features; the scores where the network has none."""
        teacher, piece = self._source.teacher, self._source.piece(len(scores))
        if self._features is None:
            few = {name: value[:piece] for name, value in inputs.items()}
            self._features = find_features(teacher, few, self._source.scores) or self._source.scores
        wanted = self._features
        if wanted == self._source.scores:
            return flat_features(scores)

        def seen(start: int, stop: int) -> Tensor:
            with reduced_precision(scores.device):
                fed = {name: value[start:stop] for name, value in inputs.items()}
                return flat_features(teacher.run(fed, (wanted,))[wanted])

        with torch.no_grad():
            parts, _ = in_pieces(seen, len(scores), piece)
        return torch.cat(parts)

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
