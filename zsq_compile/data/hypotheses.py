"""What several inputs of a network may be fed together: one preprocessing for each of them, with a probability."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.posterior import PLAUSIBLE, Posterior
from zsq_compile.data.preprocessing import Preprocessing

MOST = 6
"""Hypotheses that are looked at: each of them costs samples and runs."""

_ALIKE = 0.25  # of the samples

_Chosen: TypeAlias = tuple[dict[str, Preprocessing], float]
"""A preprocessing of some inputs, by name, and its probability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JointHypothesis:
    """A preprocessing of every input that has one, by name, and the probability of all together, 0 to 1."""

    preprocessing: Mapping[str, Preprocessing]
    probability: float

    def words(self) -> str:
        """Name the preprocessings, such as "unit" or "unit and standard"."""
        return " and ".join(dict.fromkeys(one.name for one in self.preprocessing.values())) or "as it is"


def plausible_together(posteriors: Mapping[str, Posterior]) -> tuple[JointHypothesis, ...]:
    """Return the plausible hypotheses of all inputs together, the most probable first; one where nothing is open.

    Pictures with as many channels are prepared alike: what each input tells of a preprocessing is multiplied. Other
    inputs are taken as independent. At most ``MOST`` remain, whose probabilities add up to 1.
    """
    made: list[_Chosen] = [({}, 1.0)]
    for ways in _independent_parts(posteriors):
        joined = [({**chosen, **way}, own * other) for chosen, own in made for way, other in ways]
        made = sorted(joined, key=lambda pair: -pair[1])[:MOST]  # stable: equal ones stay in order
    total = sum(probability for _, probability in made)
    return tuple(
        JointHypothesis(preprocessing={name: one[name] for name in posteriors}, probability=probability / total)
        for one, probability in made
    )


def _independent_parts(posteriors: Mapping[str, Posterior]) -> Iterator[list[_Chosen]]:
    """Yield what may be chosen for inputs that say nothing of each other."""
    pictures: dict[int, dict[str, Posterior]] = {}
    for name, one in posteriors.items():
        if one.is_open and one.best.layout is not None:
            pictures.setdefault(len(one.best.mean), {})[name] = one
    together = dict[str, list[_Chosen]]()
    for group in pictures.values():
        ways = _prepared_alike(group) if len(group) > 1 else []
        together |= dict.fromkeys(group, ways) if len(ways) > 1 else {}
    seen: list[list[_Chosen]] = []
    for name, one in posteriors.items():
        ways = together.get(name) or [({name: way.preprocessing}, way.probability) for way in one.plausible]
        if not any(ways is other for other in seen):
            seen.append(ways)
            yield ways


def _prepared_alike(group: Mapping[str, Posterior]) -> list[_Chosen]:
    """Return the preprocessings that all inputs of a group may have, as few as are plausible, but two at least."""
    known = [
        {(way.preprocessing.mean, way.preprocessing.std): way for way in reversed(one.scales)} for one in group.values()
    ]
    shared = [key for key in known[0] if all(key in ways for ways in known)]
    found = [
        (
            {name: ways[key].preprocessing for name, ways in zip(group, known, strict=True)},
            math.prod(ways[key].probability for ways in known),
        )
        for key in shared
    ]
    found.sort(key=lambda pair: -pair[1])
    total, held, kept = sum(probability for _, probability in found), 0.0, list[_Chosen]()
    for one in found:
        if held >= PLAUSIBLE * total and len(kept) > 1:
            break
        kept.append(one)
        held += one[1]
    return kept


def deal(probabilities: Sequence[float], count: int, feed: int = 1) -> NDArray[np.int64]:
    """Deal ``count`` samples to hypotheses: the number of that which each is encoded under, int64 (count,).

    Three quarters are dealt in proportion to the probabilities and a quarter to all alike, so that the least probable
    one has enough to show its range. Whole feeds of ``feed`` samples have the same. The order is that of a fair queue:
    any stretch of samples has nearly the shares of the whole.
    """
    shares = [(1.0 - _ALIKE) * one / sum(probabilities) + _ALIKE / len(probabilities) for one in probabilities]
    dealt = [0] * len(shares)
    numbers = []
    for turn in range(-(-count // feed)):
        owed = [share * (turn + 1) - had for share, had in zip(shares, dealt, strict=True)]
        numbers.append(owed.index(max(owed)))
        dealt[numbers[-1]] += 1
    return np.asarray(numbers, np.int64).repeat(feed)[:count]
