"""The moments of what a BatchNormalization makes, from those of what it reads.

For x of mean M and variance V, y = g (x - M) / sqrt(V + e) + s has mean s and variance g² V / (V + e). Once the
BatchNormalization is folded into the layer before it, y is the only one of the two that is left.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNorm

Array = NDArray[np.float64]

# Least deviation of a channel, in units of its mean, that can be measured in half precision (8 binary digits).
_SMALLEST_SHARE = 1.0 / 32.0


def moments_behind(entry: BatchNorm) -> tuple[Array, Array]:
    """Mean and variance of each channel of the value that a BatchNormalization makes, (C,) float64 each."""
    variance = entry.variance.astype(np.float64)
    total = variance + entry.epsilon
    share = np.divide(variance, total, out=np.zeros_like(variance), where=total > 0.0)
    return entry.shift.astype(np.float64), entry.scale.astype(np.float64) ** 2 * share


def measurable_behind(entry: BatchNorm) -> NDArray[np.bool_]:
    """(C,) True where a channel varies enough behind the normalisation to be measured there in half precision."""
    mean, variance = moments_behind(entry)
    measurable: NDArray[np.bool_] = np.sqrt(variance) > _SMALLEST_SHARE * np.maximum(np.abs(mean), 1e-3)
    return measurable


def entry_behind(entry: BatchNorm, value: str) -> BatchNorm:
    """Return an entry of the value behind a BatchNormalization, which may be folded.

    It is an identity, y = sqrt(V') (y - s) / sqrt(V') + s, so that the moments of its input and of its output are both
    those of ``value``. Channels that are not ``measurable_behind`` count as dead.
    """
    mean, variance = moments_behind(entry)
    return replace(
        entry,
        input=value,
        output=value,
        mean=mean.astype(np.float32),
        variance=variance.astype(np.float32),
        scale=np.sqrt(variance).astype(np.float32),
        shift=mean.astype(np.float32),
        epsilon=0.0,
        dead=entry.dead | ~measurable_behind(entry),
    )
