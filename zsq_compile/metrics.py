"""SQNR, agreement, top-1, and which output of a network holds class scores. Needs numpy only."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Z90 = 1.645
"""Two-sided 90 % quantile of the standard normal distribution."""

SMALLEST_PROBABILITY = 1e-30
"""What a probability of 0 counts as when its logarithm is taken."""

MOST_DB = 60.0
"""Ratios beyond it, and below minus it, are not printed as numbers."""

LEAST_POWER = float(np.finfo(np.float32).tiny) ** 2
"""Sum of squares up to which an output is silent: see ``is_silent``."""

_SUM_TOLERANCE = 1e-3
_LEAST_NORMAL = float(np.finfo(np.float32).tiny)
_PART = 1 << 21  # numbers that are compared at a time: float64 copies of a whole output may not fit in memory


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two powers.

    +inf without noise; -inf without signal, and where a power is not finite.
    """
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return -math.inf
    if noise == 0.0:
        return math.inf
    return 10.0 * (math.log10(signal) - math.log10(noise)) if signal > 0.0 else -math.inf


def powers(reference: NDArray[Any], other: NDArray[Any]) -> tuple[float, float]:
    """Sum of the squares of ``reference``, and of its difference from ``other``, in float64.

    Raises:
        ValueError: the shapes differ.

    """
    total = np.zeros(2)
    for signal, noise in _differences(reference, other):
        total += np.sum(np.square(signal)), np.sum(np.square(noise))
    return float(total[0]), float(total[1])


def largest_difference(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Largest magnitude of a difference; 0 where there is no element."""
    return max((float(np.max(np.abs(noise))) for _, noise in _differences(reference, other)), default=0.0)


def _differences(
    reference: NDArray[Any], other: NDArray[Any]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield parts of ``reference`` and of its difference from ``other``, of the same shape, in float64."""
    _require_same_shape(reference, other)
    flat, others = reference.reshape(-1), other.reshape(-1)
    for start in range(0, flat.size, _PART):
        part = flat[start : start + _PART].astype(np.float64)
        yield part, part - others[start : start + _PART].astype(np.float64)


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Signal to quantization noise ratio over all elements, in dB (see ``decibels`` and ``powers``)."""
    return decibels(*powers(reference, other))


def is_silent(values: NDArray[Any]) -> bool:
    """Whether nothing stands out of the float32 numbers around 0 that processors flush; no ratio can be taken to it."""
    return not values.size or max(float(np.max(values)), -float(np.min(values))) < _LEAST_NORMAL


def decibel_words(ratio: float) -> str:
    """Say a ratio in dB; beyond 60 dB, which no 8 bits reach, a figure would tell of luck or of silence."""
    if math.isnan(ratio):
        return "no ratio"
    if abs(ratio) <= MOST_DB:
        return f"{ratio:.1f} dB"
    return f"more than {MOST_DB:.0f} dB" if ratio > 0.0 else f"less than {-MOST_DB:.0f} dB"


class Output(NamedTuple):
    """Shape of a network output, the batch first and 0 where a size is unknown, and whether its numbers are floats."""

    shape: tuple[int, ...]
    is_float: bool


def array_outputs(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Output]:
    """Describe arrays for ``score_output`` and ``decision_output``."""
    return {name: Output(array.shape, np.issubdtype(array.dtype, np.floating)) for name, array in arrays.items()}


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


def score_count(output: Output) -> int | None:
    """Count the classes of an output with one row of class scores for each sample; None for any other output.

    These are floats of shape (N, C), (N, C, 1, 1) or (N, 1, 1, C) with C of at least 2. An output of rank 3 is a
    sequence or a list of boxes, also where it has a single step or a single class: (N, 1600, 1) is not 1600 classes.
    """
    axis = class_axis(output.shape)
    if not output.is_float or axis is None or len(output.shape) == 3:
        return None
    classes = output.shape[axis]
    return classes if math.prod(output.shape[1:]) == classes else None


def score_output(outputs: Mapping[str, Output]) -> str | None:
    """Name of the first output with one row of class scores for each sample (see ``score_count``)."""
    return next((name for name, output in outputs.items() if score_count(output) is not None), None)


def decision_output(outputs: Mapping[str, Output], *, per_sample: bool = False) -> str | None:
    """Name of the output whose decisions are compared between two networks; None where no output has any.

    The first with one row of class scores for each sample; without such, the first of integers, which are decisions
    already, or of floats with a class axis.

    Args:
        outputs: by name, in the order of the graph.
        per_sample: there must be exactly one decision for each sample, as labels have.

    """
    found = score_output(outputs)
    if found is not None:
        return found
    for name, (shape, is_float) in outputs.items():
        if per_sample:
            if not is_float and math.prod(shape[1:]) == 1:
                return name
        elif math.prod(shape) and (not is_float or class_axis(shape) is not None):
            return name
    return None


def are_probabilities(scores: Any) -> bool:
    """Whether (N, classes) scores, an array or a tensor, are not negative and sum to 1 within a thousandth."""
    return bool((scores >= 0.0).all() and (abs(scores.sum(1) - 1.0) < _SUM_TOLERANCE).all())


def decisions(values: NDArray[Any]) -> NDArray[Any] | None:
    """Argmax along the class axis, one for each sample, box or pixel; integers as they are.

    None for floats without a class axis, and where there is no element.
    """
    if values.size == 0:
        return None
    if not np.issubdtype(values.dtype, np.floating):
        return values
    axis = class_axis(values.shape)
    return None if axis is None else np.asarray(np.argmax(values, axis=axis))


def agreement(reference: NDArray[Any], other: NDArray[Any], *, slack: float | None = None) -> float | None:
    """Share of equal decisions, 0 to 1; None where ``reference`` holds none (see ``decisions``).

    Args:
        reference: the float model's output.
        other: the quantized model's, of the same shape.
        slack: count a decision as equal when ``other`` has, at the reference's class, its maximum or at most this much
            less; None asks for the same argmax. 0 forgives ties, which are frequent between levels of a coarse grid.

    Raises:
        ValueError: the shapes differ.

    """
    _require_same_shape(reference, other)
    chosen = decisions(reference)
    if chosen is None:
        return None
    axis = class_axis(reference.shape)
    if slack is None or axis is None or not np.issubdtype(reference.dtype, np.floating):
        return float(np.mean(chosen == decisions(other)))
    at_chosen = np.take_along_axis(other, np.expand_dims(chosen, axis), axis=axis).squeeze(axis)
    return float(np.mean(at_chosen >= np.max(other, axis=axis) - slack))


def top1(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share, 0 to 1, of samples whose largest of ``scores`` (N, classes) is at ``labels`` (N,).

    Integer ``scores`` with one element for each sample are classes already. Axes of size 1 are ignored.

    Raises:
        ValueError: shapes do not fit, or a label lies outside the classes.

    """
    if len(scores) != len(labels) or len(labels) == 0:
        raise ValueError(f"wanted one row of scores for each label, got {len(scores)} rows and {len(labels)} labels")
    rows = scores.reshape(len(labels), -1)
    if np.issubdtype(scores.dtype, np.integer) and rows.shape[1] == 1:
        return float(np.mean(rows[:, 0] == labels))
    if int(np.min(labels)) < 0 or int(np.max(labels)) >= rows.shape[1]:
        raise ValueError(
            f"labels run from {np.min(labels)} to {np.max(labels)}, but the model has {rows.shape[1]} classes; "
            "give labels that count from 0 in the model's own order"
        )
    return float(np.mean(np.argmax(rows, axis=1) == labels))


def share_beyond(reference: NDArray[Any], other: NDArray[Any], step: float) -> float:
    """Share, 0 to 1, of elements that differ by more than ``step``; NaN in either counts as different."""
    _require_same_shape(reference, other)
    if reference.size == 0:
        return 0.0
    near = sum(np.count_nonzero(np.abs(noise) <= step) for _, noise in _differences(reference, other))
    return 1.0 - near / reference.size


def logistic(log_odds: float) -> float:
    """Share, 0 to 1, with these log-odds; 1 for infinite ones."""
    return 1.0 / (1.0 + math.exp(-log_odds)) if log_odds > -700.0 else 0.0


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """90 % interval of a share that was counted on ``samples`` (Wilson 1927)."""
    spread = Z90**2 / samples
    middle = share + spread / 2.0
    reach = Z90 * math.sqrt(share * (1.0 - share) / samples + spread / (4.0 * samples))
    return (middle - reach) / (1.0 + spread), (middle + reach) / (1.0 + spread)


def _require_same_shape(reference: NDArray[Any], other: NDArray[Any]) -> None:
    if reference.shape != other.shape:
        raise ValueError(f"wanted two arrays of one shape, got {reference.shape} and {other.shape}")
