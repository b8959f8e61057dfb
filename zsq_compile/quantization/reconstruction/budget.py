"""How many optimiser steps each block gets: as much time as its error asks for, within the time that there is.

Cheap blocks, mostly the last ones, so get many steps: they also make up for what the blocks before them lost.

Without a time limit the numbers follow from the network and the effort alone, so that the same seed gives the same
bytes; with one they follow from the clock.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from zsq_compile.config.compile import Effort
from zsq_compile.progress import Clock

_ITERATIONS: dict[Effort, int] = {"fast": 0, "balanced": 300, "best": 3000}
_SECONDS: dict[Effort, float] = {"fast": 0.0, "balanced": 400.0, "best": 3600.0}
_FEWEST = 20
# seconds on two cores for one multiplication, and for one element of an activation, forwards and backwards
_MULTIPLICATION = 1.0 / 40e9
_ELEMENT = 1.0 / 60e6
_STEP = 2e-3
_SLACK = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockCost:
    """Work of one sample through one block.

    Attributes:
        multiplications: of its layers, forwards.
        elements: of all values that it makes.
        batch: samples of one step.
        error: squared error of its outputs behind the closed forms, relative to their variance.

    """

    multiplications: int
    elements: int
    batch: int
    error: float


@dataclass(kw_only=True, slots=True)
class LearningBudget:
    """Shares optimiser steps among blocks.

    Attributes:
        effort: decides the number of steps where no deadline does.
        deadline: on the clock of ``time.perf_counter``, or None.

    """

    effort: Effort
    deadline: float | None = None
    _shares: list[float] = field(default_factory=list)
    _steps: list[int] = field(default_factory=list)

    def plan(self, costs: Sequence[BlockCost]) -> None:
        """Learn what there is to do: blocks in order, those that nothing is to be learned in with an error of 0."""
        errors = [cost.error if math.isfinite(cost.error) else 0.0 for cost in costs]
        mean = sum(errors) / max(sum(error > 0 for error in errors), 1)
        weights = [min(max(error / mean, 0.5), 2.0) if error > 0 else 0.0 for error in errors]
        seconds = [
            _STEP + cost.batch * (6 * cost.multiplications * _MULTIPLICATION + cost.elements * _ELEMENT)
            for cost in costs
        ]
        unit = min(_ITERATIONS[self.effort] * sum(seconds), _SECONDS[self.effort]) / max(sum(weights), 1e-9)
        steps = [round(unit * weight / second) for weight, second in zip(weights, seconds, strict=True)]
        self._steps = [count if count >= _FEWEST else 0 for count in steps]
        self._shares = weights

    @property
    def is_spent(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.perf_counter() >= self.deadline

    @property
    def planned(self) -> int | None:
        """Optimiser steps of all blocks; None where the clock decides."""
        return None if self.deadline is not None else sum(self._steps)

    def has_time(self, block: int, seconds: float) -> bool:
        """Whether a block has time for something else that takes so many seconds: at most half of its share."""
        return self.deadline is None or self._seconds_for(block) > 2 * seconds

    def pace(self, block: int) -> Iterator[float]:
        """Progress, from 0 towards 1, at the start of each optimiser step of a block."""
        if self.deadline is None:
            count = self._steps[block]
            return (step / count for step in range(count))
        return _by_clock(time.perf_counter(), self._seconds_for(block))

    def _seconds_for(self, block: int) -> float:
        """Share of the time left that a block has, under a deadline."""
        assert self.deadline is not None
        left = self.deadline - time.perf_counter()
        return _SLACK * left * self._shares[block] / max(sum(self._shares[block:]), 1e-12)


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningConfig:
    """What all steps that learn are given.

    Attributes:
        effort: decides the number of steps where no time does.
        time_budget: seconds that the whole compilation may take; None for no limit.
        memory: bytes of activations to hold in memory.
        seed: start of all randomness.

    """

    effort: Effort
    time_budget: float | None = None
    memory: int = 256 << 20
    seed: int = 0

    def budget(self, clock: Clock, share: float = 1.0) -> LearningBudget:
        """Make the budget of one step, which may take a share of the time that is left."""
        deadline, now = clock.deadline(self.time_budget), time.perf_counter()
        if deadline is not None and deadline > now:
            deadline = now + share * (deadline - now)
        return LearningBudget(effort=self.effort, deadline=deadline)


def _by_clock(started: float, seconds: float) -> Iterator[float]:
    while seconds > 0 and (progress := (time.perf_counter() - started) / seconds) < 1.0:
        yield progress
