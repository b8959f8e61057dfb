"""A batch in pieces, for want of memory or because a network takes so many samples at a time."""

from collections.abc import Callable
from typing import TypeVar

from torch.utils.checkpoint import checkpoint

Part = TypeVar("Part")


def in_pieces(work: Callable[[int, int], Part], size: int, piece: int) -> tuple[list[Part], list[int]]:
    """Do ``work(start, stop)`` for every ``piece`` of ``size`` samples; returns what it made, and the pieces' sizes.

    Differentiable. Only one piece's activations are kept at a time: those of the others are computed again on the way
    back, so ``work`` must make the same of the same samples, and draw nothing at random.
    """
    if piece >= size:
        return [work(0, size)], [size]
    bounds = [(start, min(start + piece, size)) for start in range(0, size, piece)]
    parts = [checkpoint(work, *bound, use_reentrant=False, preserve_rng_state=False) for bound in bounds]
    return parts, [stop - start for start, stop in bounds]
