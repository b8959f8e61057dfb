"""How much work is done: decided from the network's cost and the effort, never from the clock.

The same network, effort and count give the same work on every run, so that the same seed gives the same bytes.
"""

from dataclasses import dataclass, replace

from zsq_compile.config import Effort
from zsq_compile.synthesis.probe import Cost

# What one processor core was seen to do in a second of forward and backward passes; only the order matters.
_MULTIPLICATIONS_PER_SECOND = 40e9
_ELEMENTS_PER_SECOND = 0.4e9
_BYTES_PER_ELEMENT = 12
_BATCH_BYTES = 1 << 30
_LARGEST_BATCH = 128

_ITERATIONS: dict[Effort, int] = {"fast": 12, "balanced": 24, "best": 120}
_SECONDS: dict[Effort, float] = {"fast": 25.0, "balanced": 60.0, "best": 900.0}
_FINE_SHARE = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Work on one set.

    Attributes:
        coarse: iterations at the reduced size; 0 where the network runs at its own size only.
        fine: iterations at the network's own size.
        coarse_batch: samples per turn at the reduced size.
        fine_batch: samples per turn at the network's own size.

    """

    coarse: int
    fine: int
    coarse_batch: int
    fine_batch: int


def plan_budget(
    count: int,
    effort: Effort,
    full: Cost,
    reduced: Cost | None,
    *,
    iterations: int | None = None,
    batch_size: int | None = None,
) -> Budget:
    """Plan the work for ``count`` samples of cost ``full``, or ``reduced`` at the smaller size where there is one.

    ``iterations`` and ``batch_size`` are a user's choice, and then kept. Without one at least 4 iterations are made.
    """
    wanted = iterations or _ITERATIONS[effort]
    plan = _split(wanted, reduced is not None)
    if iterations is None:
        share = _SECONDS[effort] / max(_seconds(plan, count, full, reduced), 1e-9)
        if share < 1.0:
            plan = _split(max(4, int(wanted * share)), reduced is not None)
    fine = batch_size or _batch(count, full)
    return replace(plan, fine_batch=fine, coarse_batch=batch_size or _batch(count, reduced or full))


def _split(iterations: int, reducible: bool) -> Budget:
    """Work at the reduced size, and a sixth as much on top at the full one."""
    if not reducible:
        return Budget(coarse=0, fine=iterations, coarse_batch=1, fine_batch=1)
    return Budget(coarse=iterations, fine=max(1, iterations // _FINE_SHARE), coarse_batch=1, fine_batch=1)


def _seconds(plan: Budget, count: int, full: Cost, reduced: Cost | None) -> float:
    return count * (plan.fine * _sample_seconds(full) + plan.coarse * _sample_seconds(reduced or full))


def _sample_seconds(cost: Cost) -> float:
    return cost.multiplications / _MULTIPLICATIONS_PER_SECOND + cost.elements / _ELEMENTS_PER_SECOND


def _batch(count: int, cost: Cost) -> int:
    """Find how many samples fit the memory meant for activations: at most a power of two, spread evenly over the set."""
    fitting = max(1, min(_LARGEST_BATCH, _BATCH_BYTES // max(1, cost.elements * _BYTES_PER_ELEMENT)))
    turns = -(-count // (1 << (fitting.bit_length() - 1)))
    return -(-count // turns)
