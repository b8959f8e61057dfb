"""Whether batch normalisation tells of another scale of a signal than the one that was given for it."""

import numpy as np
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.synthesis.preprocessing.infer_signal import DrawSignals, infer_signal
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork

_LEVEL = 4.0  # times that deviations may differ: data sets are louder or softer than each other by less
_SHIFT = 2.0  # deviations that means may lie apart
_DRAWN = 64


def contradict_signal(
    network: TrialNetwork, statistics: BatchNormStatistics, draw: DrawSignals, given: Preprocessing
) -> Preprocessing | None:
    """Return the scale that the statistics tell where samples under the given one are far from it; else None.

    Args:
        network: with the input in question.
        statistics: of the network.
        draw: signals to try, see ``infer_signal``.
        given: by the user, or by the file.

    """
    told = infer_signal(network, statistics, draw) if statistics.usable else None
    if told is None or not told.is_certain:
        return None
    shape = network.spec.batched(int(network.spec.shape[0] or _DRAWN))
    (middle, deviation), (wanted, usual) = (_moments(one, draw, shape) for one in (given, told))
    ratio = deviation / max(usual, 1e-12)
    is_far = not 1.0 / _LEVEL <= ratio <= _LEVEL or abs(middle - wanted) > _SHIFT * max(usual, deviation)
    return told if is_far else None


def _moments(one: Preprocessing, draw: DrawSignals, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and deviation of samples under a scale."""
    samples: NDArray[np.float32] = one.encode(draw(one.family or "noise", shape))
    return float(samples.mean()), float(samples.std())
