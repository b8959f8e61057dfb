"""How well a network does on labelled samples: mAP, mIoU, error rates of texts, decisions and classes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zsq_compile.tasks.average_precision import THRESHOLDS, AveragePrecision
from zsq_compile.tasks.boxes import class_count
from zsq_compile.tasks.by_samples import arrange_output, by_samples
from zsq_compile.tasks.compare_boxes import Found, find_boxes
from zsq_compile.tasks.compare_outputs import answering
from zsq_compile.tasks.scores import probabilities
from zsq_compile.tasks.task import OutputMeaning, Task
from zsq_compile.tasks.texts import edit_distance, read_texts
from zsq_compile.tasks.truths import BoxTruth, LabelledFigure, Truth, TruthKind, TruthWords

Outputs = Mapping[str, NDArray[Any]]

_LEAST_SCORE = 1e-3  # COCO counts boxes of any score; below it a hundred boxes a picture are full
_OVERLAP = 0.65  # of suppression: what detectors are evaluated with, where 0.45 would lose true neighbours
_SHARES = 2.0  # coordinates of pictures that go no further are shares of them


class Meter(Protocol):
    """Takes outputs of one network with what is true of the samples, a part at a time, and says how well it does."""

    def add(self, outputs: Outputs, truths: Sequence[Truth]) -> None:
        """Take the outputs (count, ...) by name of so many samples.

        Raises:
            ValueError: the labels do not fit the outputs; the message says how, as a clause about "the labels".

        """

    def figure(self) -> LabelledFigure:
        """Return the figure of all samples so far."""


def make_meter(
    task: Task, kind: TruthKind, *, size: tuple[int, int] | None = None, words: TruthWords | None = None
) -> Meter | None:
    """Return what measures a task on labels of a kind; None where such labels say nothing of it.

    Args:
        task: of the network.
        kind: of the labels.
        size: rows and columns of the pictures that go in, for boxes.
        words: what the labels call things.

    """
    words = words or TruthWords()
    answers = answering(task)
    if kind == "boxes" and task.kind == "detection" and task.heads and size is not None:
        return _BoxMeter(task, size, words)
    if kind == "masks" and task.kind == "segmentation" and answers:
        return _MaskMeter(answers[0], task.threshold)
    if kind == "texts" and task.kind == "text" and answers:
        return _TextMeter(answers[0], task.blank, words)
    if kind == "classes" and task.kind == "decisions" and answers:
        return _DecisionMeter(answers[0], task.threshold)
    return None


class _BoxMeter:
    def __init__(self, task: Task, size: tuple[int, int], words: TruthWords) -> None:
        self._task, self._size = task, size
        self._categories = words.categories
        self._precision = AveragePrecision()
        self._count = 0

    def add(self, outputs: Outputs, truths: Sequence[Truth]) -> None:
        outputs = by_samples(self._task, outputs)
        counts = [class_count(head, outputs) for head in self._task.heads]
        wide = None if None in counts else max(one for one in counts if one is not None)
        found = find_boxes(self._task, outputs, _LEAST_SCORE, overlap=_OVERLAP)
        scale = self._scale(found)
        for one, truth in zip(found, truths, strict=True):
            if not isinstance(truth, BoxTruth):
                raise ValueError("the labels are no boxes")
            own = BoxTruth(
                corners=truth.corners,
                classes=class_numbers(truth.classes, self._categories, wide),
                ignored=truth.ignored,
            )
            self._precision.add(one.corners * scale, one.scores, one.classes, own)
            self._count += 1

    def _scale(self, found: Sequence[Found]) -> NDArray[np.float64]:
        """Pixels in a unit of the boxes: many where coordinates are shares of the picture."""
        if not all(head.form in ("corners", "center and size") for head in self._task.heads):
            return np.ones(4)
        furthest = max((float(np.median(one.corners.max(1))) for one in found if len(one.corners)), default=0.0)
        rows, columns = self._size
        return np.array([columns, rows, columns, rows], np.float64) if furthest <= _SHARES else np.ones(4)

    def figure(self) -> LabelledFigure:
        rows = self._precision.by_threshold()
        details = {} if rows is None else {"mAP at IoU 0.50": float(rows[0]), "mAP at IoU 0.75": float(rows[5])}
        return LabelledFigure(
            measure=f"mAP at IoU {THRESHOLDS[0]:.2f} to {THRESHOLDS[-1]:.2f}",
            value=None if rows is None else float(np.mean(rows)),
            count=self._count,
            higher_is_better=True,
            details=details,
        )


def class_numbers(classes: NDArray[np.int64], categories: Sequence[int] | None, wide: int | None) -> NDArray[np.int64]:
    """Bring classes of labels to those of a network with ``wide`` classes.

    Without ``categories`` they are the network's own. Categories that are as many as the network has classes stand for
    these in ascending order; fewer are numbers of its classes, from 0 or, where the largest is ``wide``, from 1. Where
    the network has a single class, everything is of it. Where it does not tell how many it has (``wide`` None, as one
    that gives the numbers of classes), its classes are the categories in ascending order.

    Raises:
        ValueError: they do not fit.

    """
    if wide == 1:
        return np.zeros(len(classes), np.int64)
    if wide is None and categories is None:
        return classes
    if categories is not None and wide in (None, len(categories)):
        return np.searchsorted(np.asarray(categories), classes).astype(np.int64)
    assert wide is not None
    known = np.asarray(categories if categories is not None else classes, np.int64)
    largest = int(known.max(initial=0))
    if largest < wide:
        return classes
    if categories is not None and largest == wide and int(known.min()) >= 1:
        return classes - 1
    raise ValueError(f"the labels have classes up to {largest}, but the network has {wide}")


class _MaskMeter:
    def __init__(self, meaning: OutputMeaning, threshold: float) -> None:
        self._meaning, self._threshold = meaning, threshold
        self._table: NDArray[np.int64] | None = None
        self._count = 0

    def add(self, outputs: Outputs, truths: Sequence[Truth]) -> None:
        values = arrange_output(outputs[self._meaning.name], self._meaning)
        axis = self._meaning.axis if self._meaning.axis is not None and values.shape[self._meaning.axis] > 1 else None
        classes = 2 if axis is None else values.shape[axis]
        if axis is None:
            maps = (probabilities(values, self._meaning.scores) > self._threshold).astype(np.int64)
        else:
            maps = values.argmax(axis)
        maps = maps.reshape(len(maps), *[size for size in maps.shape[1:] if size > 1][-2:])
        if self._table is None:
            self._table = np.zeros((classes, classes), np.int64)
        for one, truth in zip(maps, truths, strict=True):
            if not isinstance(truth, np.ndarray):
                raise ValueError("the labels are no masks")
            true = nearest(truth, one.shape[0], one.shape[1])
            judged = true >= 0
            true = np.where(judged, (true > 0).astype(np.int64) if axis is None else true, 0)
            if int(true.max(initial=0)) >= classes:
                raise ValueError(f"the labels have classes up to {int(true.max())}, but the network has {classes}")
            both = np.bincount((true * classes + one)[judged], minlength=classes**2)
            self._table += both.reshape(classes, classes)
            self._count += 1

    def figure(self) -> LabelledFigure:
        value, details = None, {}
        if self._table is not None:
            inside = np.diag(self._table)
            union = self._table.sum(0) + self._table.sum(1) - inside
            present = self._table.sum(1) > 0
            value = float(np.mean((inside / np.maximum(union, 1))[present])) if present.any() else None
            details["equal pixels"] = float(inside.sum() / max(int(self._table.sum()), 1))
            if len(inside) == 2 and union[1]:
                details["IoU of the foreground"] = float(inside[1] / union[1])
        return LabelledFigure(measure="mIoU", value=value, count=self._count, higher_is_better=True, details=details)


def nearest(values: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Bring (rows, columns) to another size, each element from the nearest centre."""
    down, right = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for new, old in zip((rows, columns), values.shape, strict=True)
    )
    return np.asarray(values[down[:, None], right[None]])


class _TextMeter:
    def __init__(self, meaning: OutputMeaning, blank: int | None, words: TruthWords) -> None:
        self._meaning, self._blank, self._characters = meaning, blank, words.characters
        self._edits = self._characters_wanted = self._word_edits = self._words_wanted = self._right = self._count = 0

    def add(self, outputs: Outputs, truths: Sequence[Truth]) -> None:
        values = arrange_output(outputs[self._meaning.name], self._meaning)
        moved = np.moveaxis(values, self._meaning.axis if self._meaning.axis is not None else values.ndim - 1, -1)
        rows = moved.reshape(len(moved), -1, moved.shape[-1])
        names = None if self._characters is None else class_names(self._characters, rows.shape[-1], self._blank)
        for text, truth in zip(read_texts(rows, self._blank), truths, strict=True):
            if not isinstance(truth, str | tuple):
                raise ValueError("the labels are no texts")
            if isinstance(truth, str) and names is None:
                raise ValueError("the labels are texts, and nothing says which characters the network's classes are")
            got: Sequence[Any] = text if names is None else "".join(names[one] for one in text)
            self._edits += edit_distance(truth, got)
            self._characters_wanted += len(truth)
            self._right += got == truth
            self._count += 1
            if isinstance(truth, str) and isinstance(got, str):
                self._word_edits += edit_distance(truth.split(), got.split())
                self._words_wanted += len(truth.split())

    def figure(self) -> LabelledFigure:
        details: dict[str, float] = {}
        if self._count:
            details["right texts"] = self._right / self._count
        if self._words_wanted:
            details["WER"] = self._word_edits / self._words_wanted
        return LabelledFigure(
            measure="CER",
            value=self._edits / self._characters_wanted if self._characters_wanted else None,
            count=self._count,
            higher_is_better=False,
            details=details,
        )


def class_names(characters: Sequence[str], classes: int, blank: int | None) -> list[str]:
    """Return the character of each class, nothing for the blank; a class that is left over is a space, and the last.

    Raises:
        ValueError: they are not as many.

    """
    names = list(characters)
    wanted = classes - (blank is not None)
    if len(names) == wanted - 1 and " " not in names:
        names.append(" ")
    if len(names) != wanted:
        raise ValueError(f"the labels come with {len(characters)} characters, but the network knows {wanted}")
    if blank is not None:
        names.insert(blank, "")
    return names


class _DecisionMeter:
    def __init__(self, meaning: OutputMeaning, threshold: float) -> None:
        self._meaning, self._threshold = meaning, threshold
        self._count = self._right = self._true = self._found = self._hits = 0

    def add(self, outputs: Outputs, truths: Sequence[Truth]) -> None:
        values = probabilities(arrange_output(outputs[self._meaning.name], self._meaning), self._meaning.scores)
        rows = values.reshape(len(values), -1)
        for row, truth in zip(rows, truths, strict=True):
            if not isinstance(truth, int) or truth not in (0, 1):
                raise ValueError(f"the labels of decisions are 0 and 1, and one is {truth!r}")
            decided = bool(
                row.max(initial=0.0) > self._threshold
            )  # a sample of several steps is one, if any of them is
            self._count += 1
            self._right += decided == bool(truth)
            self._true += truth
            self._found += decided
            self._hits += decided and bool(truth)

    def figure(self) -> LabelledFigure:
        details: dict[str, float] = {}
        if self._true:
            details["recall"] = self._hits / self._true
        if self._found:
            details["precision"] = self._hits / self._found
        return LabelledFigure(
            measure="right decisions",
            value=self._right / self._count if self._count else None,
            count=self._count,
            higher_is_better=True,
            details=details,
        )
