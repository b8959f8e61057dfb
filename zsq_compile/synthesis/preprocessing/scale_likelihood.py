"""How likely a scale of the input is, given what the network makes of it: a fitted likelihood.

A conditional logit (McFadden 1974): of all scales that a network is tried at, the probability of one is the exponential
of a weighted sum of what is seen at it, over the sum of those of all. The weights are fitted by
``benchmarks/signals.py`` on networks whose scale is known, leaving one out to judge them.
"""

import numpy as np
from numpy.typing import NDArray

from zsq_compile.synthesis.preprocessing.watch_scales import Sight, Watched

NAMES = (
    "logits", "logits squared", "results", "results squared", "first", "first squared", "gates", "gates squared",
    "first biases", "inner biases", "firm", "firm squared", "varied",
)  # fmt: skip
"""What the weights are of: logarithms of widths, by a head or none, by a plain or a recurrent first layer; and more."""

WEIGHTS = (1.34, -2.2, 1.4, -5.06, -0.14, -0.27, -0.36, -0.25, -0.44, -2.34, 4.4, -1.91, 1.68)

_UNIT = 3.0  # of logarithms: a factor of 20
_LOWEST, _HIGHEST = -6.0, 9.0


def describe(sight: Sight, watched: Watched) -> NDArray[np.float64]:
    """Return the numbers that ``WEIGHTS`` are of: (13,)."""
    decides, recurrent = watched.head is not None, watched.is_recurrent
    last, first = (float(np.clip(one, _LOWEST, _HIGHEST)) / _UNIT for one in (sight.last, sight.first))
    biases = [max(one, 0.0) / _UNIT for one in (sight.first_bias, sight.inner_bias)]
    by_head = (last, last**2, 0.0, 0.0) if decides else (0.0, 0.0, last, last**2)
    by_first = (0.0, 0.0, first, first**2) if recurrent else (first, first**2, 0.0, 0.0)
    rest = (biases[0] ** 2, biases[1] ** 2, sight.firm, sight.firm**2, sight.varied)
    return np.array((*by_head, *by_first, *rest))
