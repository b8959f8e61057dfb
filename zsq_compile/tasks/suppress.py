"""Overlap of boxes, and suppression of all but the strongest of those that overlap."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
OVERLAP = 0.45
"""Intersection over union beyond which two boxes are of one object, as detectors are run by default."""


def overlaps(boxes: Floats, others: Floats) -> Floats:
    """Return the (n, m) intersection over union of boxes (n, 4) and (m, 4), x1, y1, x2, y2."""
    inside = _inside(boxes, others)
    return np.asarray(inside / np.maximum(_areas(boxes)[:, None] + _areas(others)[None] - inside, 1e-12))


def crowd_overlaps(boxes: Floats, crowds: Floats) -> Floats:
    """Return the (n, m) share of boxes (n, 4) that lies in (m, 4)."""
    return np.asarray(_inside(boxes, crowds) / np.maximum(_areas(boxes)[:, None], 1e-12))


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


def _inside(boxes: Floats, others: Floats) -> Floats:
    """Area of the intersections, (n, m); the axes apart, which takes half the time of both at once."""
    wide, high = (
        np.maximum(
            np.minimum(boxes[:, None, axis + 2], others[None, :, axis + 2])
            - np.maximum(boxes[:, None, axis], others[None, :, axis]),
            0.0,
        )
        for axis in (0, 1)
    )
    return np.asarray(wide * high)


def _areas(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
