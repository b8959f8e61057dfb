"""Compare numbers for what they are: decisions, vectors, measurements, pictures, points of heat maps, integers."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.tasks.scores import least_probability, log_odds, probabilities
from zsq_compile.tasks.task import OutputMeaning, TaskQuality

Floats = NDArray[np.float64]

_LEAST = 1e-3  # probability
_NEAR = 0.1  # of a spread: errors below it are 20 dB below what tells samples apart
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
_LEVELS = 5.0  # of 255: what a viewer does not see


def compare_decisions(meaning: OutputMeaning, threshold: float, wanted: NDArray[Any], got: NDArray[Any]) -> TaskQuality:
    """Compare probabilities (N, ...): on which side of a threshold they are, and their error."""
    before, after = (probabilities(array, meaning.scores) for array in (wanted, got))
    sides = before > threshold, after > threshold
    either = int(np.count_nonzero(sides[0] | sides[1]))
    details = {
        "mean absolute error": float(np.mean(np.abs(before - after))),
        "above the threshold": float(np.mean(sides[0])),
    }
    if either:
        details["equal where either is above"] = float(np.count_nonzero(sides[0] & sides[1])) / either
    least = least_probability(float(before.max(initial=0.0)), _LEAST)
    change = np.abs(log_odds(before, least) - log_odds(after, least)) / 2.0
    weights = np.sqrt(np.maximum(before, after)) + 1e-6
    harm = float(np.sum(weights * change / (1.0 + change)) / np.sum(weights))
    return TaskQuality(
        measure="decisions",
        kept=float(np.mean(sides[0] == sides[1])) if either else None,
        count=before.size,
        harm=_finite(harm),
        details=details,
        weights={"equal where either is above": float(either)},
    )


def compare_vectors(meaning: OutputMeaning, wanted: NDArray[Any], got: NDArray[Any]) -> TaskQuality:
    """Compare vectors (N, ..., numbers) by their angle; ``harm`` is in units of their distance from the mean."""
    axis = meaning.axis if meaning.axis is not None else wanted.ndim - 1
    before, after = (_vectors(array, axis) for array in (wanted, got))
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosine = np.sum(before * after, 1) / np.maximum(lengths, 1e-12)
    spread = float(np.mean(np.sum(np.square(before - before.mean(0)), 1))) if len(before) > 1 else 0.0
    power = spread or float(np.mean(np.sum(np.square(before), 1)))
    noise = float(np.mean(np.sum(np.square(before - after), 1)))
    return TaskQuality(
        measure="cosine",
        kept=float(np.clip(cosine, 0.0, 1.0).mean()),
        count=len(before),
        harm=_finite(math.sqrt(noise / max(power, 1e-30))),
        details={"least cosine": float(cosine.min())},
    )


def compare_measurements(wanted: NDArray[Any], got: NDArray[Any]) -> TaskQuality:
    """Compare numbers (N, ...) in units of their spread over samples; over elements, where there is a single sample."""
    before, after = (array.reshape(len(array), -1).astype(np.float64) for array in (wanted, got))
    spread = before.std(0) if len(before) > 1 else np.full(before.shape[1], before.std())
    usual = float(np.sqrt(np.mean(np.square(spread)))) or float(np.sqrt(np.mean(np.square(before)))) or 1.0
    error = np.abs(before - after) / np.maximum(spread, 0.1 * usual)  # a number that hardly moves has no say of its own
    return TaskQuality(
        measure="numbers within a tenth of their spread",
        kept=float(np.mean(error < _NEAR)),
        count=before.size,
        harm=_finite(float(np.sqrt(np.mean(np.square(error))))),
        details={"mean error in spreads": float(np.mean(error))},
        weights={"harm": float(len(before))},
    )


def compare_pictures(wanted: NDArray[Any], got: NDArray[Any]) -> TaskQuality:
    """Compare pictures (N, ...) by their peak signal to noise ratio; kept are pixels that look the same."""
    low, high = float(wanted.min()), float(wanted.max())
    slack = 0.1
    usual = [b - a for a, b in _RANGES if a - slack * (b - a) <= low and high <= b + slack * (b - a)]
    wide = usual[0] if usual else (high - low) or 1.0
    ratios, close, noise = [], 0.0, 0.0
    for one, other in zip(wanted, got, strict=True):
        error = (one.astype(np.float64) - other) / wide
        close += float(np.mean(np.abs(error) < _LEVELS / 255.0))
        ratios.append(float(np.mean(np.square(error))))
    noise = float(np.mean(ratios))
    return TaskQuality(
        measure="pixels that look the same",
        kept=close / len(wanted),
        count=len(wanted),
        harm=_finite(math.sqrt(noise)),
        details={"PSNR": float(np.mean([min(-10.0 * math.log10(max(one, 1e-12)), 120.0) for one in ratios]))},
    )


def compare_peaks(meaning: OutputMeaning, wanted: NDArray[Any], got: NDArray[Any]) -> TaskQuality:
    """Compare where each map of (N, points, rows, columns) has its peak; kept are those within a pixel."""
    axis = meaning.axis if meaning.axis is not None else 1
    before, after = (np.moveaxis(array, axis, 1).astype(np.float64) for array in (wanted, got))
    rows, columns = before.shape[-2:]
    flat = [array.reshape(*array.shape[:2], -1) for array in (before, after)]
    peaks = [np.stack(np.unravel_index(array.argmax(-1), (rows, columns)), -1) for array in flat]
    distance = np.linalg.norm((peaks[0] - peaks[1]).astype(np.float64), axis=-1)
    strength = flat[0].max(-1) - np.median(flat[0], axis=-1)
    at = flat[0].argmax(-1)[..., None]
    lead = [np.take_along_axis(array, at, -1) - array for array in flat]  # of the peak before every other pixel
    near = lead[0] < np.maximum(strength, 1e-12)[..., None] / 2.0
    change = np.sqrt(np.sum(near * np.square(lead[0] - lead[1]), -1) / np.maximum(near.sum(-1), 1)) / np.maximum(
        strength, 1e-12
    )
    return TaskQuality(
        measure="peaks within a pixel",
        kept=float(np.mean(distance <= 1.5)),
        count=distance.size,
        harm=_finite(float(np.sum(strength * change / (1.0 + change)) / max(float(np.sum(strength)), 1e-12))),
        details={"peak distance in pixels": float(np.mean(distance))},
    )


def compare_integers(wanted: NDArray[Any], got: NDArray[Any]) -> TaskQuality:
    """Compare integers, which are decisions already."""
    equal = float(np.mean(wanted == got)) if wanted.size else 1.0
    return TaskQuality(
        measure="equal numbers", kept=equal if wanted.size else None, count=wanted.size, harm=1.0 - equal
    )


def _vectors(array: NDArray[Any], axis: int) -> Floats:
    moved = np.moveaxis(array, axis, -1)
    return moved.reshape(-1, moved.shape[-1]).astype(np.float64)


def _finite(harm: float) -> float:
    return harm if math.isfinite(harm) else math.inf
