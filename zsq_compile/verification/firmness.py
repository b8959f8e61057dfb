"""How sure a classifier is of made-up pictures, which tells how much surer it is of real ones."""

from collections.abc import Iterable

import numpy as np

_MARGINS = (0.25, 4.0)  # between which margins tell something: logits of some networks are in units of their own


def firmness(margins: Iterable[float]) -> float:
    """Mean logarithm of margins in nats, kept between a quarter and 4: 0 for a margin of 1, and where there is none.

    A network that has learned little is hardly surer of real pictures than of made-up ones, and keeps hardly more of
    its decisions there; one that has learned its data well is much surer. See benchmarks/results/confidence.md.
    """
    kept = np.clip(list(margins), *_MARGINS)
    return float(np.log(kept).mean()) if kept.size else 0.0
