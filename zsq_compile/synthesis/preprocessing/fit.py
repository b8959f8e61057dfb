"""Fit a scale and an offset of every input channel to what the first BatchNormalization remembers.

That layer has the mean and the variance of what the first layer made of the training data: two numbers for each of its
channels, against two unknowns for each channel of the input. Under the right ones, natural samples show the moments
that are remembered. The unknowns are found by least squares from the best of a wide grid of scales and offsets.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.synthesis.preprocessing.trials import Moments, Trial

Parameters = NDArray[np.float64]
MakePreprocessing = Callable[[tuple[float, ...], tuple[float, ...]], Preprocessing]
"""(mean, std) -> Preprocessing."""

_GAINS = np.arange(-7.5, 15.1, 1.5)  # logarithms of the deviation that is tried, relative to the samples'
_OFFSETS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of the mean, in full ranges of the samples
_STARTS = 2
_STEPS, _STEP, _LARGEST_MOVE, _ENOUGH = 20, 1e-3, 1.5, 1e-3
_FEW_STEPS = 6
_ALIKE = 0.1  # weight of the differences between channels: what the statistics leave open is alike in all of them
_LEAST_RATIO = 1e-4


@dataclass(slots=True, eq=False)
class Fit:
    """The problem of least squares.

    Parameters are the logarithms of the gains of all channels, and behind them where the samples' mean comes to lie, in
    units of the gain: input = gain * (sample - mean of samples + offset).

    Attributes:
        trial: watches the first BatchNormalization.
        make: a preprocessing from mean and std per channel.
        channels: that have a gain of their own; one for all of them.
        hurried: descends only a few steps from each start.

    """

    trial: Trial
    make: MakePreprocessing
    channels: int
    hurried: bool = False
    _middle: Parameters = field(init=False)

    def __post_init__(self) -> None:
        """Measure the samples."""
        samples = self.trial.samples.astype(np.float64)
        axes = tuple(axis for axis in range(samples.ndim) if axis != 1 or self.channels == 1)
        self._middle = samples.mean(axes).reshape(-1)

    @staticmethod
    def count_runs(channels: int, *, hurried: bool = False) -> int:
        """Count how often the samples are run, where steps succeed at the second try on average."""
        return len(_GAINS) * len(_OFFSETS) + _STARTS * (_FEW_STEPS if hurried else _STEPS) * (2 * channels + 2)

    def count_values(self) -> int:
        """Count the numbers that a channel of the layer has on all samples."""
        (moments,) = self.trial.moments(self._preprocessing(np.zeros(2 * self.channels)))
        return moments.count

    def run(self) -> Preprocessing:
        """Return the best preprocessing found."""
        grid = [np.repeat((gain, offset), self.channels) for gain in _GAINS for offset in _OFFSETS]
        starts = sorted(grid, key=lambda start: _cost(self._residuals(start)))[:_STARTS]
        best, _ = min((self._descend(start) for start in starts), key=lambda found: found[1])
        return self._preprocessing(best)

    def _preprocessing(self, parameters: Parameters) -> Preprocessing:
        gains, offsets = np.split(parameters, 2)
        mean, std = self._middle - offsets, np.exp(-gains)
        return self.make(tuple(map(float, mean)), tuple(map(float, std)))

    def _residuals(self, parameters: Parameters) -> Parameters:
        """Deviations of all channels' moments, and of the parameters from their means."""
        (moments,) = self.trial.moments(self._preprocessing(parameters))
        apart = [_ALIKE * (part - part.mean()) for part in np.split(parameters, 2)]
        return np.concatenate([_deviations(moments), *apart])

    def _descend(self, parameters: Parameters) -> tuple[Parameters, float]:
        """Levenberg and Marquardt's method, on residuals that count less the larger they are."""
        residuals, damping = self._residuals(parameters), 1e-2
        cost = _cost(residuals)
        for _ in range(_FEW_STEPS if self.hurried else _STEPS):
            slopes = np.stack([(self._residuals(one) - residuals) / _STEP for one in _neighbours(parameters)], 1)
            weights = 1.0 / (1.0 + residuals**2)
            square, pull = slopes.T @ (weights[:, None] * slopes), slopes.T @ (weights * residuals)
            before = cost
            for _ in range(6):
                scaled = square + damping * np.diag(np.diag(square) + 1e-9)
                move = np.clip(-np.linalg.solve(scaled, pull), -_LARGEST_MOVE, _LARGEST_MOVE)
                moved = self._residuals(parameters + move)
                if _cost(moved) < cost:
                    parameters, residuals, cost, damping = parameters + move, moved, _cost(moved), damping / 4
                    break
                damping *= 4
            if before - cost < _ENOUGH * before:
                break
        return parameters, cost


def _neighbours(parameters: Parameters) -> Parameters:
    return parameters + _STEP * np.eye(len(parameters))


def _cost(residuals: Parameters) -> float:
    """Sum of squares, in which a large one, of an odd or dying channel, counts by its logarithm only."""
    return float(np.log1p(residuals**2).sum())


def _deviations(moments: Moments) -> Parameters:
    """How far each mean is off, in deviations, and how far each deviation is off, as a logarithm: 0 where both fit."""
    ratio = np.maximum(moments.variance / moments.target_variance, _LEAST_RATIO)
    shift = (moments.mean - moments.target_mean) / np.sqrt(moments.target_variance)
    return np.concatenate([shift, np.log(ratio) / np.sqrt(2.0)])
