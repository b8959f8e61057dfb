"""How near two results are: pure functions of numpy arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Signal to quantization noise ratio, 10 log10(sum r^2 / sum (r - o)^2), in dB over all elements.

    Equal arrays give +inf; a reference of zeros that is not met gives -inf. Sums run in float64.

    Raises:
        ValueError: the shapes differ.

    """
    _same_shape(reference, other)
    signal = np.asarray(reference, np.float64)
    noise = signal - np.asarray(other, np.float64)
    noise_power = float(np.sum(np.square(noise)))
    signal_power = float(np.sum(np.square(signal)))
    if noise_power == 0.0:
        return float("inf")
    if signal_power == 0.0:
        return float("-inf")
    return 10.0 * float(np.log10(signal_power / noise_power))


def class_axis(shape: tuple[int, ...]) -> int | None:
    """Axis that holds the classes of an output whose axis 0 is the batch; None when no axis can.

    Up to rank 3 it is the last axis (logits; one row of scores for each box). Dense outputs are N,C,H,W or N,H,W,C:
    equal spatial sizes decide, and where they do not, classes are taken to be fewer than rows or columns.
    """
    if len(shape) < 2:
        return None
    if len(shape) <= 3:
        return len(shape) - 1 if shape[-1] > 1 else None
    last = len(shape) - 1
    if len(set(shape[2:])) == 1 and shape[1] != shape[2]:
        return 1 if shape[1] > 1 else None
    if len(set(shape[1:last])) == 1 and shape[last] != shape[1]:
        return last if shape[last] > 1 else None
    return min((axis for axis in (1, last) if shape[axis] > 1), key=lambda axis: shape[axis], default=None)


def agreement(
    a_logits: NDArray[Any], b_logits: NDArray[Any], *, axis: int | None = None, slack: float | None = None
) -> float:
    """Share of decisions, 0 to 1, that two results have in common.

    A decision is the argmax along ``axis`` (default: see class_axis), one for each sample, box or pixel. Integer arrays
    and arrays without a class axis hold decisions already and are compared element by element.

    Args:
        a_logits: the reference.
        b_logits: what is judged, of the same shape.
        axis: class axis.
        slack: count a decision as common when ``b`` has, at the reference's class, its maximum or at most this much
            less; None asks for the same argmax. 0 forgives ties, which are frequent between codes of a coarse grid.

    Raises:
        ValueError: the shapes differ, or there is nothing to compare.

    """
    _same_shape(a_logits, b_logits)
    if a_logits.size == 0:
        raise ValueError("agreement needs at least one element, got empty arrays")
    along = class_axis(a_logits.shape) if axis is None else axis
    if along is None or not np.issubdtype(a_logits.dtype, np.floating):
        return float(np.mean(a_logits == b_logits))
    chosen = np.argmax(a_logits, axis=along)
    if slack is None:
        return float(np.mean(chosen == np.argmax(b_logits, axis=along)))
    there = np.take_along_axis(b_logits, np.expand_dims(chosen, along), axis=along).squeeze(along)
    return float(np.mean(there >= np.max(b_logits, axis=along) - slack))


def top1(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share, 0 to 1, of samples whose largest of ``logits`` (N, classes) is at ``labels`` (N,).

    Integer ``logits`` of shape (N,) are classes already. Axes of size 1 behind the classes are ignored.

    Raises:
        ValueError: shapes do not fit, or a label lies outside the classes.

    """
    if len(logits) != len(labels) or len(labels) == 0:
        raise ValueError(f"wanted one row of scores for each label, got {len(logits)} rows and {len(labels)} labels")
    scores = logits.reshape(len(labels), -1)
    if np.issubdtype(logits.dtype, np.integer) and scores.shape[1] == 1:
        return float(np.mean(scores[:, 0] == labels))
    if int(np.min(labels)) < 0 or int(np.max(labels)) >= scores.shape[1]:
        raise ValueError(
            f"labels run from {np.min(labels)} to {np.max(labels)}, but the model has {scores.shape[1]} classes; "
            "give labels that count from 0 in the model's own order"
        )
    return float(np.mean(np.argmax(scores, axis=1) == labels))


def share_beyond(reference: NDArray[Any], other: NDArray[Any], step: float) -> float:
    """Share, 0 to 1, of elements that differ by more than ``step``; NaN in either counts as different."""
    _same_shape(reference, other)
    if reference.size == 0:
        return 0.0
    near = np.abs(np.asarray(reference, np.float64) - np.asarray(other, np.float64)) <= step
    return 1.0 - float(np.mean(near))


def _same_shape(reference: NDArray[Any], other: NDArray[Any]) -> None:
    if reference.shape != other.shape:
        raise ValueError(f"wanted two arrays of one shape, got {reference.shape} and {other.shape}")
