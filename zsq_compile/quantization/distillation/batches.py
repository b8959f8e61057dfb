"""What a distillation learns on: batches of a fixed set, samples that a generator makes meanwhile, or both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from zsq_compile.quantization.samples import Batch, Samples

Batches = Iterator[Batch]
"""Without an end."""

Student = Callable[[Mapping[str, Tensor], Sequence[str]], Mapping[str, Tensor]]
"""Runs the quantized network from its inputs to named values, differentiable to the inputs and to nothing else."""


class LiveSamples(Protocol):
    """Makes samples for a student that is being trained, and may learn from it.

    All its randomness comes from the generator of random numbers that it is handed, at the time when samples are asked
    for: only so can a training be continued from a checkpoint.
    """

    @property
    def description(self) -> str:
        """All settings in words: a checkpoint belongs to one description."""

    def take(self, count: int, student: Student, rng: torch.Generator) -> Mapping[str, Tensor]:
        """Return ``count`` samples, network inputs by name, for the student as it is now."""

    def measured(self) -> Mapping[str, float] | None:
        """Figures by name since the last call, for the curve of the training."""

    def state(self) -> Mapping[str, Any]:
        """Return all that ``restore`` needs: tensors, numbers, words, and lists and mappings of them."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what ``state`` gave."""


def draw_batches(samples: Samples, chosen: Tensor, batch: int, rng: torch.Generator) -> Batches:
    """Draw batches out of the samples chosen, by index, for ever; ``rng`` is asked at each batch, and not before it."""
    while True:
        index = samples.draw(chosen, batch, rng)
        yield {name: value[index] for name, value in samples.inputs.items()}


def mix_in_live(
    fixed: Batches, batch: int, live: LiveSamples, share: float, student: Student, rng: torch.Generator
) -> Batches:
    """Replace a share of each batch of a fixed set by samples that are made meanwhile.

    Args:
        fixed: batches of at least ``batch`` samples, of which any may be replaced; not asked where all are.
        batch: samples of a batch.
        live: makes the others.
        share: of them, above 0, on average: a batch has one live sample more than another where the share is no whole
            number of samples, and none where the share is less than one.
        student: the network that is trained.
        rng: asked at each batch, and handed to ``live`` before the fixed set is asked.

    """
    while True:
        count = int(share * batch + float(torch.rand((), generator=rng)))
        made = live.take(count, student, rng) if count else {}
        if count >= batch:
            yield made
            continue
        rest = next(fixed)
        size = min(len(value) for value in rest.values())
        kept = torch.randperm(size, generator=rng)[: batch - count]
        yield {
            name: torch.cat([made[name], value[kept].to(made[name])]) if count else value[kept]
            for name, value in rest.items()
        }
