"""Overlap of boxes, and suppression of all but the strongest of those that overlap."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
OVERLAP = 0.45
"""Intersection over union beyond which two boxes are of one object, as detectors are run by default."""


def overlaps(boxes: Floats, others: Floats) -> Floats:
    """Return the (n, m) intersection over union of boxes (n, 4) and (m, 4), x1, y1, x2, y2."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0.0, None), axis=2)
    return np.asarray(inside / np.maximum(_areas(boxes)[:, None] + _areas(others)[None] - inside, 1e-12))


def pair_overlaps(boxes: Floats, others: Floats) -> Floats:
    """Return the (n,) intersection over union of pairs of boxes."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    inside = np.prod(np.clip(high - low, 0.0, None), axis=1)
    return np.asarray(inside / np.maximum(_areas(boxes) + _areas(others) - inside, 1e-12))


def suppress(
    boxes: Floats, scores: NDArray[Any], groups: NDArray[np.int64], overlap: float = OVERLAP
) -> NDArray[np.int64]:
    """Return numbers of the boxes that stay, strongest first: each overlaps no stronger one of its group that stays."""
    order = np.argsort(-scores, kind="stable")
    clashes = overlaps(boxes[order], boxes[order]) >= overlap
    clashes &= groups[order][:, None] == groups[order][None]
    alive = np.ones(len(order), bool)
    for index in np.flatnonzero(clashes.sum(1) > 1):  # the others touch themselves alone
        if alive[index]:
            alive[index + 1 :] &= ~clashes[index, index + 1 :]
    return np.asarray(order[alive], np.int64)


def _areas(boxes: Floats) -> Floats:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
