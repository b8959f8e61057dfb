"""How much work is done: decided from the network's cost and the effort, never from the clock.

The same network, effort and count give the same work on every run, so that the same seed gives the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from zsq_compile.config.compile import Effort
from zsq_compile.synthesis.probe import Cost

# What one processor core was seen to do in a second of forward and backward passes; only the order of size matters.
_MULTIPLICATIONS_PER_SECOND = 40e9
_ELEMENTS_PER_SECOND = 0.4e9
_SHARE_KEPT = 2  # what was seen to be alive at the peak, beside one copy of what all nodes write
_BATCH_BYTES = 1 << 30
_LARGEST_BATCH = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """What an algorithm may take: ``iterations`` at most, about ``seconds``; below ``fewest`` iterations nothing."""

    iterations: Mapping[Effort, int]
    seconds: Mapping[Effort, float]
    fewest: int


PIXELS = Allowance(
    iterations={"fast": 8, "balanced": 24, "best": 80},
    seconds={"fast": 20.0, "balanced": 50.0, "best": 600.0},
    fewest=2,
)
"""Of optimised pixels, which start from natural images."""

ANSWERS = Allowance(
    iterations={"fast": 16, "balanced": 24, "best": 40},
    seconds={"fast": 20.0, "balanced": 40.0, "best": 200.0},
    fewest=6,
)
"""Of pixels that are moved until heads answer, most of which do so sooner."""

NETWORKS = Allowance(
    iterations={"fast": 100, "balanced": 400, "best": 4000},
    seconds={"fast": 60.0, "balanced": 300.0, "best": 3600.0},
    fewest=50,
)
"""Of generator networks, which start from nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Work on one set: ``iterations`` over all of it (0: it would take too long), ``batch_size`` samples at a time."""

    iterations: int
    batch_size: int


def plan_budget(
    count: int,
    effort: Effort,
    cost: Cost,
    *,
    iterations: int | None = None,
    batch_size: int | None = None,
    allowance: Allowance = PIXELS,
) -> Budget:
    """Plan the work on ``count`` samples of ``cost`` each; ``iterations`` and ``batch_size`` given are kept."""
    batch = batch_size or _batch(count, cost)
    if iterations is not None:
        return Budget(iterations=iterations, batch_size=batch)
    sample_seconds = cost.multiplications / _MULTIPLICATIONS_PER_SECOND + cost.elements / _ELEMENTS_PER_SECOND
    affordable = int(allowance.seconds[effort] / max(count * sample_seconds, 1e-9))
    chosen = min(allowance.iterations[effort], affordable)
    return Budget(iterations=chosen if chosen >= allowance.fewest else 0, batch_size=batch)


def _batch(count: int, cost: Cost) -> int:
    """Find how many samples fit the memory meant for activations, and spread the set evenly over such batches."""
    fitting = max(1, min(_LARGEST_BATCH, _BATCH_BYTES // max(1, cost.elements * cost.element_bytes * _SHARE_KEPT)))
    turns = -(-count // fitting)
    return -(-count // turns)
