"""How many scales of an input are tried, and on how many samples: as many as an amount of work allows.

What is seen changes smoothly with the scale, so that of a large network every second, third or sixth scale is tried,
and what lies between is interpolated.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from zsq_compile.synthesis.preprocessing.trial_costs import TrialCost
from zsq_compile.synthesis.preprocessing.watch_scales import Sight

SCAN_WORK, LITTLE_SCAN_WORK = 220_000_000_000, 20_000_000_000
"""Of a scan where there is time, and in a moment; see ``count_trial``."""

_MOST_SAMPLES = 32
_NUMBERS = 1 << 20  # of all samples together: drawing them takes time as well
_COARSER = ((1, 8), (2, 4), (3, 4), (6, 2))  # every nth scale, if it can be tried on so many samples: one has no width
_TOGETHER = 1 << 26  # elements that a run may write at once: 256 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """Guesses that differ by their scale alone.

    Attributes:
        members: their numbers, the smallest scale first.
        usual: number of the one with the highest odds.

    """

    members: tuple[int, ...]
    usual: int

    def every(self, step: int) -> set[int]:
        """Every nth of them, with both ends and the usual one."""
        return {*self.members[::step], self.members[-1], self.usual}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What is tried.

    Attributes:
        samples: of each guess.
        tried: numbers of the guesses.
        together: samples that are run at once.

    """

    samples: int
    tried: frozenset[int]
    together: int


def find_chains(kinds: Sequence[Hashable], gains: Sequence[float], odds: Sequence[float]) -> list[Chain]:
    """Group guesses of a kind, such as a family and its mean."""
    groups: dict[Hashable, list[int]] = {}
    for number, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(number)
    return [
        Chain(members=tuple(sorted(group, key=lambda number: gains[number])), usual=max(group, key=lambda n: odds[n]))
        for group in groups.values()
    ]


def plan_scan(chains: Sequence[Chain], cost: TrialCost, numbers: int, batch: int, most_work: int) -> Scan | None:
    """Plan a scan; None where even a coarse one would take more than ``most_work``.

    Args:
        chains: all guesses.
        cost: of one sample.
        numbers: of one sample of the input.
        batch: samples that must be run together.
        most_work: see ``count_trial``.

    """
    runs = most_work // max(cost.work, 1)
    most = max(min(_NUMBERS // numbers, _MOST_SAMPLES), 2)
    together = max(_TOGETHER // max(cost.elements * batch, 1), 1) * batch
    for step, fewest in _COARSER:
        tried = frozenset[int]().union(*(chain.every(step) for chain in chains))
        affordable = runs // len(tried)
        samples = -(-min(most, affordable) // batch) * batch
        samples = samples if samples <= affordable else affordable // batch * batch
        if samples >= max(batch, min(fewest, most)):
            return Scan(samples=samples, tried=tried, together=together)
    return None


def fill_between(chains: Sequence[Chain], gains: Sequence[float], seen: Sequence[Sight | None]) -> list[Sight | None]:
    """Interpolate what guesses that were not tried would show, by the logarithm of the scale.

    Args:
        chains: all guesses, both ends of each tried.
        gains: of the guesses.
        seen: of the guesses; None for those that were not tried, or could not be.

    """
    filled = list(seen)
    for chain in chains:
        known = [(gains[number], sight) for number in chain.members if (sight := seen[number]) is not None]
        for (low, one), (high, other) in pairwise(known):
            for number in chain.members:
                if low < gains[number] < high:
                    filled[number] = _mix(one, other, math.log(gains[number] / low) / math.log(high / low))
    return filled


def _mix(one: Sight, other: Sight, share: float) -> Sight:
    ends = asdict(one), asdict(other)
    return Sight(**{name: (1.0 - share) * ends[0][name] + share * ends[1][name] for name in ends[0]})
