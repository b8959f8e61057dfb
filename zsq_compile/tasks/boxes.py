"""Read boxes with scores off the outputs of a detector: every form that ``BoxHead`` knows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.tasks.task import BoxHead, Columns

Outputs = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_LARGEST_EXPONENT = 12.0
# SSD and its heirs scale offsets so (Liu et al. 2016, code of the authors); only lists of places are decoded with them.
_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_APART = 1 << 20  # more than a detector has classes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Places:
    """Some places of a head: (k,) number of the sample and of the place in it."""

    samples: Integers
    places: Integers


def place_count(head: BoxHead, outputs: Outputs) -> int:
    """Count the places of a head in one sample, anchors included."""
    rest = _rest_shape(head.boxes, outputs)
    return math.prod(rest) * _anchors(head)


def class_count(head: BoxHead, outputs: Outputs) -> int | None:
    """Count the classes of a head, without the background; None where it gives their numbers, which tell no end."""
    if head.labels is not None:
        return None
    count = place_count(head, outputs)
    return max(
        math.prod(_sliced(part, outputs).shape[1:]) // max(count, 1)
        - (head.exclusive[index] and head.nothing is not None)
        for index, part in enumerate(head.scores)
    )


def best_scores(head: BoxHead, outputs: Outputs) -> NDArray[np.float32]:
    """Return the (N, places) probability of the best class of every place.

    Each part is reduced along its columns before a sigmoid is taken, which keeps their order.
    """
    count = place_count(head, outputs)
    score = _best_of_part(head, 0, outputs, count)
    for index in range(1, len(head.scores)):
        score = score * _best_of_part(head, index, outputs, count)
    return score


def best_classes(head: BoxHead, outputs: Outputs, where: Places) -> Integers:
    """Return the (k,) class of places: the label where there is one, else the best of the widest part.

    Without a label it counts from 0 and knows no background.
    """
    if head.labels is not None:
        labels = _rows(head.labels, outputs, where, place_count(head, outputs))[:, 0]
        return np.rint(np.nan_to_num(labels, posinf=-1.0, neginf=-1.0)).astype(np.int64)
    widths = [part.stop - part.start for part in head.scores]
    widest = widths.index(max(widths))
    rows = _rows(head.scores[widest], outputs, where, place_count(head, outputs))
    return np.asarray(_without_nothing(head, widest, rows, 1).argmax(1), np.int64)


def class_probabilities(head: BoxHead, outputs: Outputs, where: Places, classes: Integers) -> Floats:
    """Return the (k,) probability of the class ``classes`` (k,) at places; 0 where their label is another one."""
    count = place_count(head, outputs)
    product = np.ones(len(classes))
    if head.labels is not None:
        product *= best_classes(head, outputs, where) == classes
        classes = np.zeros_like(classes)
    for index, part in enumerate(head.scores):
        values = _rows(part, outputs, where, count)
        if head.logits[index]:
            values = softmax(values) if head.exclusive[index] else sigmoid(values)
        values = _without_nothing(head, index, values, 1)
        product *= values[np.arange(len(classes)), np.minimum(classes, values.shape[1] - 1)]
    return product


def box_numbers(head: BoxHead, outputs: Outputs, where: Places) -> Floats:
    """Return the (k, numbers) box numbers of places, as they are."""
    return _rows(head.boxes, outputs, where, place_count(head, outputs))


def box_corners(head: BoxHead, numbers: Floats, outputs: Outputs, where: Places) -> Floats:
    """Decode (k, numbers) to (k, 4) corners x1, y1, x2, y2; of the form "numbers" there are none, and it must not come.

    In pixels where the stride is known, or where the network gives them so; else in strides, or in shares, or, of
    offsets in a list, in sizes of the anchor of each place (see ``box_groups``).
    """
    if head.form == "corners":
        return np.concatenate(
            [np.minimum(numbers[:, :2], numbers[:, 2:4]), np.maximum(numbers[:, :2], numbers[:, 2:4])], 1
        )
    if head.form == "center and size":
        return _around(numbers[:, :2], numbers[:, 2:4])
    columns, stride = _columns(head, outputs, where), head.stride or 1.0
    if head.form == "offsets":
        sizes = numbers[:, -2:]
        shifts = numbers[:, :2] if numbers.shape[1] >= 4 else np.full_like(sizes, 0.5)
        if not head.height:
            shifts, sizes = shifts * _CENTRE_VARIANCE, sizes * _SIZE_VARIANCE
        sizes = np.exp(np.clip(sizes, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
        return _around((columns + shifts) * stride, sizes * stride)
    if head.form == "bins":
        bins = softmax(numbers.reshape(len(numbers), 4, -1))
        numbers = bins @ np.arange(bins.shape[2], dtype=np.float64)
    centre = columns + 0.5
    return np.concatenate([centre - numbers[:, :2], centre + numbers[:, 2:4]], 1) * stride


def box_groups(head: BoxHead, order: int, where: Places, classes: Integers) -> Integers:
    """Return the (k,) group of each box: only boxes of one group can be the same object.

    This is the class where boxes are in a picture's coordinates; also the head where its stride is unknown; also the
    place where nothing is known of its anchor.
    """
    if head.form in ("corners", "center and size") or (
        head.height and head.stride is not None and head.form != "numbers"
    ):
        return classes
    if head.height and head.form != "numbers":
        return classes + _APART * (order + 1)
    return classes + _APART * ((where.places + 1) * 64 + order + 1)


def sigmoid(values: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(-values)), without overflow."""
    half = values.dtype.type(0.5) if np.issubdtype(values.dtype, np.floating) else 0.5
    return np.asarray(half * (np.tanh(half * values) + half * 2))


def softmax(values: Floats) -> Floats:
    """Softmax along the last axis."""
    powers = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _around(centre: Floats, size: Floats) -> Floats:
    half = np.abs(size) / 2.0
    return np.concatenate([centre - half, centre + half], 1)


def _anchors(head: BoxHead) -> int:
    wide = head.boxes.stop - head.boxes.start
    return max(wide // 4, 1) if head.form not in ("bins", "numbers") else 1


def _rest_shape(part: Columns, outputs: Outputs) -> tuple[int, ...]:
    shape = outputs[part.output].shape
    return tuple(size for axis, size in enumerate(shape) if axis not in (0, part.axis))


def _sliced(part: Columns, outputs: Outputs) -> NDArray[Any]:
    array = outputs[part.output]
    return array[(slice(None),) * part.axis + (slice(part.start, part.stop),)]


def _without_nothing(head: BoxHead, index: int, values: NDArray[Any], axis: int) -> NDArray[Any]:
    """Leave out the column of the background, in the part that has one."""
    if not head.exclusive[index] or head.nothing is None or values.shape[axis] < 2:
        return values
    return np.delete(values, head.nothing, axis=axis)


def _best_of_part(head: BoxHead, index: int, outputs: Outputs, count: int) -> NDArray[np.float32]:
    """Best probability of one part at each place, (N, places)."""
    part = head.scores[index]
    values, axis = _sliced(part, outputs), part.axis
    groups = count // max(math.prod(_rest_shape(part, outputs)), 1)
    if groups > 1:
        moved = np.moveaxis(values, axis, -1)
        values, axis = moved.reshape(len(moved), count, moved.shape[-1] // groups), 2
    best = _without_nothing(head, index, values, axis).max(axis)
    if head.logits[index] and head.exclusive[index]:
        top = values.max(axis, keepdims=True)
        best = np.exp(best - top.squeeze(axis) - np.log(np.exp(values - top).sum(axis)))
    elif head.logits[index]:
        best = sigmoid(best)
    return np.asarray(best.reshape(len(values), count), np.float32)


def _rows(part: Columns, outputs: Outputs, where: Places, count: int) -> Floats:
    """Read the (k, columns) numbers of places, without a copy of all others."""
    moved = np.moveaxis(_sliced(part, outputs), part.axis, -1)
    rest = moved.shape[1:-1]
    groups = count // max(math.prod(rest), 1)
    index = np.unravel_index(where.places // groups, rest) if rest else ()
    rows: Floats = moved[(where.samples, *index)].astype(np.float64)
    if groups > 1:
        rows = rows.reshape(len(rows), groups, -1)[np.arange(len(rows)), where.places % groups]
    return rows


def _columns(head: BoxHead, outputs: Outputs, where: Places) -> Floats:
    """Column and row of places in their grid, (k, 2); zeros of a list."""
    area = head.height * head.width
    if not area:
        return np.zeros((len(where.places), 2))
    rest = _rest_shape(head.boxes, outputs)
    anchors = place_count(head, outputs) // area
    in_front = rest[-2:] == (head.height, head.width) and _anchors(head) == 1
    position = where.places % area if in_front else where.places // max(anchors, 1) % area
    return np.stack([position % head.width, position // head.width], 1).astype(np.float64)
