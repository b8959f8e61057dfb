"""What several inputs of a network may be fed together: one preprocessing for each of them, with a probability."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing

MOST = 6
"""Hypotheses that are looked at: each of them costs samples and runs."""

_ALIKE = 0.25  # of the samples


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

    Inputs are taken as independent. At most ``MOST`` remain, whose probabilities add up to 1.
    """
    names = list(posteriors)
    made = []
    for chosen in itertools.product(*(posteriors[name].plausible for name in names)):
        probability = math.prod(one.probability for one in chosen)
        made.append(({name: one.preprocessing for name, one in zip(names, chosen, strict=True)}, probability))
    kept = sorted(made, key=lambda pair: -pair[1])[:MOST]  # stable: equal ones stay in the order of the posteriors
    total = sum(probability for _, probability in kept)
    return tuple(JointHypothesis(preprocessing=one, probability=probability / total) for one, probability in kept)


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
