"""Micro-batching with gradient checkpointing: for memory, or because a network has a fixed batch."""

from collections.abc import Callable
from typing import TypeVar

from torch.utils.checkpoint import checkpoint

Part = TypeVar("Part")


def run_micro_batches(work: Callable[[int, int], Part], count: int, size: int) -> tuple[list[Part], list[int]]:
    """Call ``work(start, stop)`` for every ``size`` of ``count`` samples; return its results, and their sizes.

    Differentiable. Only the activations of one micro-batch are kept at a time: those of the others are computed again
    in the backward pass, so ``work`` must be a function of the samples alone and draw nothing at random.
    """
    if size >= count:
        return [work(0, count)], [count]
    bounds = [(start, min(start + size, count)) for start in range(0, count, size)]
    parts = [checkpoint(work, *bound, use_reentrant=False, preserve_rng_state=False) for bound in bounds]
    return parts, [stop - start for start, stop in bounds]
