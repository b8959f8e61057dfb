"""Compare the outputs of two networks by what they are for."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.metrics import powers
from zsq_compile.tasks.by_samples import by_samples
from zsq_compile.tasks.compare_boxes import compare_boxes
from zsq_compile.tasks.compare_classes import compare_classes, compare_masks
from zsq_compile.tasks.compare_numbers import (
    compare_decisions,
    compare_integers,
    compare_measurements,
    compare_peaks,
    compare_pictures,
    compare_vectors,
)
from zsq_compile.tasks.compare_texts import compare_texts
from zsq_compile.tasks.task import OutputMeaning, OutputRole, Task, TaskKind, TaskQuality

Outputs = Mapping[str, NDArray[Any]]

_ROLES: Mapping[TaskKind, tuple[OutputRole, ...]] = {
    "classification": ("class scores",),
    "detection": (),
    "segmentation": ("mask",),
    "heatmaps": ("heatmap",),
    "text": ("characters",),
    "decisions": ("probabilities",),
    "embedding": ("embedding",),
    "regression": ("landmarks", "numbers", "boxes"),
    "image": ("image",),
    "indices": ("indices",),
}
"""Roles of the outputs that answer, of each kind of task."""

_NO_ANSWER: tuple[OutputRole, ...] = ("state", "count")
_NOTHING = TaskQuality(measure="outputs of equal size", kept=None, count=0, harm=0.0)


def compare_outputs(task: Task, wanted: Outputs, got: Outputs) -> TaskQuality:
    """Say how much of what ``wanted`` says ``got`` says as well.

    Args:
        task: of both networks.
        wanted: outputs (count, ...) of the float network by name, the batch on axis 0.
        got: those of the other, of the same shapes. Outputs that are not given, because their size depends on the data,
            are not compared, nor are empty ones.

    """
    wanted, got = by_samples(task, wanted), by_samples(task, got)
    if task.heads:
        boxes = {part.output for head in task.heads for part in (head.boxes, *head.scores)}
        given = all(name in wanted and name in got and len(wanted[name]) for name in boxes)
        return compare_boxes(task, wanted, got) if given else _NOTHING
    answers = [meaning for meaning in answering(task) if meaning.name in wanted and wanted[meaning.name].size]
    found = [_compare(task, meaning, wanted[meaning.name], got[meaning.name]) for meaning in answers]
    joined = join_qualities(found)
    if joined is None:  # all sizes depend on the data, or are 0
        return _NOTHING
    states = [meaning.name for meaning in task.outputs if meaning.role == "state" and meaning.name in wanted]
    return replace(joined, harm=joined.harm + _state_harm([(wanted[name], got[name]) for name in states]))


def answering(task: Task) -> list[OutputMeaning]:
    """Return the outputs that answer: those whose role is that of the task; all that are no states where none is."""
    own = [meaning for meaning in task.outputs if meaning.role in _ROLES[task.kind]]
    return own or [meaning for meaning in task.outputs if meaning.role not in _NO_ANSWER]


def _state_harm(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float:
    """Mean error of states, in units of their size: they go back in, and answers of later steps show it."""
    found = []
    for wanted, got in pairs:
        signal, noise = powers(wanted, got)
        if np.issubdtype(wanted.dtype, np.floating) and signal > 0.0:
            found.append(math.sqrt(noise / signal) if math.isfinite(noise) else math.inf)
    return sum(found) / len(found) if found else 0.0


def join_qualities(parts: Iterable[TaskQuality]) -> TaskQuality | None:
    """Quality over parts of the samples, each weighted by its count, or by its own weights; None without parts.

    A part whose ``kept`` is None has lost nothing: it counts as kept whole where it has a weight for that, and is left
    out where it has none, or where all parts are so.
    """
    found = list(parts)
    if len(found) < 2:
        return found[0] if found else None
    said = [part for part in found if part.kept is not None]
    kept = [(1.0 if part.kept is None else part.kept, part.weights.get("kept", part.count)) for part in found]
    weights: dict[str, float] = {"kept": sum(weight for _, weight in kept), "harm": sum(map(_harm_weight, found))}
    details: dict[str, float] = {}
    for name in dict.fromkeys(name for part in found for name in part.details):
        values = [(part.details[name], part.weights.get(name, part.count)) for part in found if name in part.details]
        weights[name] = sum(weight for _, weight in values)
        details[name] = _weighted(values)
        if name.startswith("least"):
            details[name] = min(value for value, _ in values)
    return TaskQuality(
        measure=found[0].measure,
        kept=_weighted(kept) if said else None,
        count=sum(part.count for part in found),
        harm=_weighted([(part.harm, _harm_weight(part)) for part in found]),
        details=details,
        weights=weights,
    )


def _harm_weight(part: TaskQuality) -> float:
    return part.weights.get("harm", max(part.count, 1))


def _weighted(values: Sequence[tuple[float, float]]) -> float:
    """Mean of values with weights; a plain one where all weights are 0."""
    total = sum(weight for _, weight in values)
    if not total:
        return float(np.mean([value for value, _ in values]))
    return sum(value * weight for value, weight in values if weight) / total


def _compare(task: Task, meaning: OutputMeaning, wanted: NDArray[Any], got: NDArray[Any]) -> TaskQuality:
    match task.kind:
        case "classification":
            return compare_classes(meaning, wanted, got)
        case "segmentation":
            return compare_masks(meaning, task.threshold, wanted, got)
        case "heatmaps":
            return compare_peaks(meaning, wanted, got)
        case "text":
            return compare_texts(meaning, task.blank, wanted, got)
        case "decisions":
            return compare_decisions(meaning, task.threshold, wanted, got)
        case "embedding":
            return compare_vectors(meaning, wanted, got)
        case "image":
            return compare_pictures(wanted, got)
        case "indices":
            return compare_integers(wanted, got)
        case _:
            return compare_measurements(wanted, got)
