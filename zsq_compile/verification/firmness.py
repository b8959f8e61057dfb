"""How sure a classifier is of made-up pictures, which tells how much surer it is of real ones."""

import math
from collections.abc import Iterable

import numpy as np

_MARGINS = (0.25, 4.0)  # between which margins tell something: logits of some networks are in units of their own


def firmness(margins: Iterable[tuple[float, int]]) -> float:
    """Mean logarithm of margins in nats, as if each came with the deviation of one score; 0 where there is none.

    A network that has learned little is hardly surer of real pictures than of made-up ones, and keeps hardly more of
    its decisions there; one that has learned its data well is much surer. See benchmarks/results/confidence.md.

    Args:
        margins: median margin of a family, kept between a quarter and 4, and the number of classes, C > 1: the two
            largest of C normal scores lie 1 / sqrt(2 ln C) deviations apart (David and Nagaraja 2003).

    """
    low, high = _MARGINS
    logs = [math.log(min(max(margin, low), high) * math.sqrt(2.0 * math.log(classes))) for margin, classes in margins]
    return float(np.mean(logs)) if logs else 0.0
