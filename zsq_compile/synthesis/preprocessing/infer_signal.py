"""Which scale does a network expect of an input that is no image? Told by its BatchNormalizations, where there are any.

One that reads the input itself knows mean and variance of every feature. One behind the first layer has the moments of
what that makes of the input: noise of deviation 1 shows them, or a scale and an offset are fitted.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNorm, BatchNormStatistics
from zsq_compile.data.preprocessing import Preprocessing, SignalFamily
from zsq_compile.synthesis.preprocessing.infer import EXPLAINED, LAYERS, NEAR, fit_to_statistics
from zsq_compile.synthesis.preprocessing.trials import TRIAL_IMAGES, TrialNetwork

DrawSignals = Callable[[SignalFamily, tuple[int, ...]], NDArray[np.float32]]
"""(family, shape) -> signals of that shape, as ``signals`` draws them."""

_FAMILIES: tuple[SignalFamily, ...] = ("noise", "white", "bursts")
_MOST_CHANNELS = 16  # of more, all get one scale: there are too many unknowns
_ROWS = 256  # to be tried on, where one sample has one number for each channel
_SMALLEST_VARIANCE = 1e-12


def infer_signal(network: TrialNetwork, statistics: BatchNormStatistics, draw: DrawSignals) -> Preprocessing | None:
    """Infer the scale of a float input that is no image; None where nothing tells it.

    Args:
        network: with the input in question.
        statistics: of the network.
        draw: signals to try.

    """
    spec, layers = network.spec, statistics.usable[:LAYERS]
    reader = next((layer for layer in statistics.usable if layer.input == spec.name), None)
    if reader is not None and len(spec.shape) > 1:
        return _as_remembered(reader, "white" if len(spec.shape) == 2 else "noise")
    if not layers:
        return None
    batch = spec.shape[0] or (TRIAL_IMAGES if len(spec.shape) > 2 else _ROWS)
    shape = spec.batched(-(-TRIAL_IMAGES // batch) * batch)
    channels = int(spec.shape[1] or 1) if len(spec.shape) > 2 else 1
    channels = channels if channels <= _MOST_CHANNELS else 1
    found: list[tuple[float, Preprocessing]] = []
    standard = Preprocessing(
        name="standard",
        mean=(0.0,),
        std=(1.0,),
        channel_order="none",
        source="inferred",
        reason="batch normalisation statistics",
        layout=None,
        family="noise",
    )
    nearest = float("inf")
    for family in _FAMILIES:
        make = partial(Preprocessing, name="fitted", channel_order="none", layout=None, family=family)
        trial = network.watch(layers, draw(family, shape))
        if trial is None:
            return None
        if family == "noise":
            nearest = trial.distance(standard)
            if nearest <= NEAR or not np.isfinite(nearest):
                return standard if nearest <= NEAR else None
        fitted = fit_to_statistics(trial, make, channels, nearest)
        found += [] if fitted is None else [(trial.distance(fitted), fitted)]
    if not found:
        return standard if nearest <= EXPLAINED else None
    return min(found, key=lambda one: one[0])[1]


def _as_remembered(reader: BatchNorm, family: SignalFamily) -> Preprocessing:
    """Mean and deviation of each feature, from the BatchNormalization that reads them."""
    deviation = np.sqrt(np.maximum(reader.variance.astype(np.float64), _SMALLEST_VARIANCE))
    return Preprocessing(
        name="fitted",
        mean=tuple(map(float, -reader.mean / deviation)),
        std=tuple(map(float, 1.0 / deviation)),
        channel_order="none",
        source="inferred",
        reason="the BatchNormalization that reads it",
        layout=None,
        family=family,
    )
