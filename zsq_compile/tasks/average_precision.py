"""Mean average precision of a detector on labelled pictures, as COCO defines it."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.tasks.suppress import crowd_overlaps, overlaps
from zsq_compile.tasks.truths import BoxTruth

Floats = NDArray[np.float64]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Intersections over union from which on a box is right; the average precision is the mean over them."""

_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST = 100  # boxes of a class in a picture


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Matches:
    """Boxes of one class in one picture, strongest first: (k,) scores, (10, k) whether right, whether left out."""

    scores: Floats
    right: NDArray[np.bool_]
    ignored: NDArray[np.bool_]


@dataclass(kw_only=True, slots=True)
class AveragePrecision:
    """Collects boxes of pictures; ``value`` is their mean average precision, over all areas.

    What it does is what COCO's evaluation does (Lin et al. 2014): the strongest 100 boxes of a class in a picture, each
    given to the free true box that it overlaps most, precision at 101 recalls, the mean over thresholds and over the
    classes that there are true boxes of. Boxes on crowds, and on true boxes that are to be ignored, do not count.
    """

    matches: dict[int, list[_Matches]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, corners: Floats, scores: NDArray[Any], classes: NDArray[Any], truth: BoxTruth) -> None:
        """Add the boxes of one picture: (k, 4) corners in the units of the true ones, (k,) scores and classes."""
        for index in np.union1d(classes, truth.classes).astype(int).tolist():
            own, true = classes == index, truth.classes == index
            self.counts[index] += int(np.count_nonzero(true & ~truth.ignored))
            found = _match(corners[own], np.asarray(scores, np.float64)[own], truth.corners[true], truth.ignored[true])
            self.matches[index].append(found)

    def by_threshold(self) -> Floats | None:
        """Return the (10,) mean over classes at each of ``THRESHOLDS``; None without a true box."""
        rows = [self._precisions(index) for index, count in self.counts.items() if count]
        return np.asarray(np.mean(rows, axis=0)) if rows else None

    def _precisions(self, index: int) -> Floats:
        """Average precision of a class at each threshold, (10,)."""
        parts = self.matches[index]
        order = np.argsort(-np.concatenate([part.scores for part in parts]), kind="stable")
        right = np.concatenate([part.right for part in parts], 1)[:, order]
        counted = ~np.concatenate([part.ignored for part in parts], 1)[:, order]
        found = np.zeros(len(THRESHOLDS))
        for number, (true, seen) in enumerate(zip(right, counted, strict=True)):
            hits = np.cumsum(true & seen)
            recall = hits / self.counts[index]
            precision = hits / np.maximum(np.cumsum(seen), 1)
            best_after = np.maximum.accumulate(precision[::-1])[::-1]
            places = np.searchsorted(recall, _RECALLS, side="left")
            found[number] = np.sum(best_after[places[places < len(recall)]]) / len(_RECALLS)
        return found


def _match(corners: Floats, scores: Floats, true: Floats, ignored: NDArray[np.bool_]) -> _Matches:
    """Give each box, strongest first, to the true box that it overlaps most and that no stronger one has."""
    order = np.argsort(-scores, kind="stable")[:_MOST]
    last = np.argsort(ignored, kind="stable")  # those that do not count come last
    true, ignored = true[last], ignored[last]
    table = np.where(ignored[None], crowd_overlaps(corners[order], true), overlaps(corners[order], true))
    right = np.zeros((len(THRESHOLDS), len(order)), bool)
    left_out = np.zeros_like(right)
    for number, least in enumerate(THRESHOLDS):
        free = np.ones(len(true), bool)
        for box, row in enumerate(table):
            chosen = _choose(row, ignored, free | ignored, min(least, 1.0 - 1e-10))
            if chosen is not None:
                free[chosen] = False
                right[number, box], left_out[number, box] = True, ignored[chosen]
    return _Matches(scores=scores[order], right=right, ignored=left_out)


def _choose(row: Floats, ignored: NDArray[np.bool_], free: NDArray[np.bool_], least: float) -> int | None:
    """Choose the free true box that overlaps most and by enough, one that counts before any that does not."""
    for those in (free & ~ignored, free & ignored):
        if those.any():
            values = np.where(those, row, -1.0)
            best = len(values) - 1 - int(np.argmax(values[::-1]))  # of equal ones the last, as COCO's loop does
            if values[best] >= least:
                return best
    return None
