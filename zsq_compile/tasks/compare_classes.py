"""Compare the classes that two networks decide for: of samples, and of pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.tasks.scores import Form, least_probability, log_odds, log_probabilities, probabilities
from zsq_compile.tasks.task import OutputMeaning, TaskQuality

Floats = NDArray[np.float64]

_LEAST = 1e-4  # probability


def compare_classes(meaning: OutputMeaning, wanted: NDArray[Any], got: NDArray[Any]) -> TaskQuality:
    """Compare the largest of class scores (N, classes), or (N, ..., classes) with the classes on ``meaning.axis``."""
    axis = meaning.axis if meaning.axis is not None else wanted.ndim - 1
    rows = [np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]) for array in (wanted, got)]
    before, after = (log_probabilities(array, meaning.scores) for array in rows)
    margin, changed = margins(before, after)
    top = before.argmax(-1)
    return TaskQuality(
        measure="equal largest scores",
        kept=float(np.mean(top == after.argmax(-1))),
        count=len(before),
        harm=_mean(flips(margin, changed)),
        details={
            "median margin": float(np.median(margin)),
            "margin error": float(np.mean(np.abs(margin - changed))),
        },
    )


def margins(before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """Return (n,) by how much the best of (n, classes) log probabilities leads the next one, before and after."""
    if before.shape[1] < 2:
        return np.ones(len(before)), np.ones(len(before))
    rows, top = np.arange(len(before)), before.argmax(-1)
    lead, after_all = (values[rows, top] - _next(values, rows, top) for values in (before, after))
    return lead, after_all


def _next(values: Floats, rows: NDArray[np.int64], top: NDArray[np.int64]) -> Floats:
    others = values.copy()
    others[rows, top] = -np.inf
    return np.asarray(others.max(-1))


def flips(margin: Floats, changed: Floats) -> Floats:
    """Return (n,) how near decisions are to being others: the change of the margin beside a margin that is usual."""
    change = np.abs(margin - changed)
    return np.asarray(change / (1.0 + change))


def compare_masks(meaning: OutputMeaning, threshold: float, wanted: NDArray[Any], got: NDArray[Any]) -> TaskQuality:
    """Compare pixels: of a class each, the classes on ``meaning.axis``, or above a threshold, where there is no axis.

    ``kept`` is the intersection over union, the mean over classes that either network sees in a sample; of two classes,
    and of a mask, that of what is not background.
    """
    overlaps, equal, harm, said = [], 0.0, 0.0, 0
    axis = meaning.axis if meaning.axis is not None and wanted.shape[meaning.axis] > 1 else None
    for one, other in zip(wanted, got, strict=True):  # a sample at a time: float64 of all would be large
        if axis is None:
            before, after = (probabilities(array, _form(meaning, wanted)).reshape(-1) for array in (one, other))
            maps = [(values > threshold).astype(np.int64) for values in (before, after)]
            harm += _mask_harm(before, after)
        else:
            rows = [np.moveaxis(array, axis - 1, -1).reshape(-1, wanted.shape[axis]) for array in (one, other)]
            first, second = (log_probabilities(array, meaning.scores) for array in rows)
            maps = [values.argmax(-1) for values in (first, second)]
            harm += _mean(flips(*margins(first, second)))
        equal += float(np.mean(maps[0] == maps[1]))
        overlap = class_overlaps(maps[0], maps[1], 2 if axis is None else wanted.shape[axis])
        if overlap:
            overlaps.append(float(np.mean(list(overlap.values()))))
            said += 1
    count = len(wanted)
    return TaskQuality(
        measure="intersection over union",
        kept=float(np.mean(overlaps)) if overlaps else None,
        count=said,
        harm=harm / max(count, 1) if np.isfinite(harm) else float("inf"),
        details={"equal pixels": equal / max(count, 1), **({"least": min(overlaps)} if overlaps else {})},
        weights={"harm": float(count), "equal pixels": float(count)},
    )


def class_overlaps(wanted: NDArray[np.int64], got: NDArray[np.int64], classes: int) -> dict[int, float]:
    """Intersection over union of each class that either map of classes holds; of two classes, that of class 1 alone."""
    both = np.bincount(wanted.reshape(-1) * classes + got.reshape(-1), minlength=classes * classes)
    table = both.reshape(classes, classes)
    inside = np.diag(table)
    union = table.sum(0) + table.sum(1) - inside
    first = 1 if classes == 2 else 0
    return {index: float(inside[index] / union[index]) for index in range(first, classes) if union[index]}


def _form(meaning: OutputMeaning, wanted: NDArray[Any]) -> Form:
    """Form of scores of yes or no: of the whole output where it is not known, not of one sample of it."""
    if meaning.scores is not None:
        return meaning.scores
    inside = bool(wanted.size) and wanted.min() >= 0.0 and wanted.max() <= 1.0 + 1e-6
    return "probabilities" if inside else "logits"


def _mask_harm(before: Floats, after: Floats) -> float:
    """Change of log-odds where either network answers most: weighted by the larger probability."""
    weights = np.maximum(before, after) + 1e-6
    least = least_probability(float(before.max(initial=0.0)), _LEAST)
    change = np.abs(log_odds(before, least) - log_odds(after, least)) / 2.0
    return float(np.sum(weights * change / (1.0 + change)) / np.sum(weights))


def _mean(values: Floats) -> float:
    mean = float(np.mean(values)) if values.size else 0.0
    return mean if np.isfinite(mean) else float("inf")
