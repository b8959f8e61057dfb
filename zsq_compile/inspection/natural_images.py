"""Random colour pictures with the spectrum and the colours of photographs, made in numpy: enough to try a network with.

    picture = mean colour + contrast * (1/f fields along the axes of natural colours), bent into [0, 1]

They have no edges and no objects. What calibrates comes from ``synthesis.prior``, which needs torch and more time.
"""

import numpy as np
from numpy.typing import NDArray

# Principal axes of RGB in photographs with their standard deviations, and the mean, as published for ImageNet.
_AXES = np.array(((0.5675, 0.5808, 0.5836), (0.7192, -0.0045, -0.6948), (0.4009, -0.8140, 0.4203)))
_SPREAD = np.array((0.36, 0.11, 0.055))
_MEAN = np.array((0.485, 0.456, 0.406))
_STRAIGHT = 0.35  # from the middle gray on; what lies further out is bent


def natural_fields(count: int, channels: int, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Make (count, channels, height, width) pictures in [0, 1], RGB order; one channel is their brightness.

    The amplitude spectrum falls as 1/f (Field 1987), and every picture has a contrast and a colour of its own.

    Raises:
        ValueError: channels is neither 1 nor 3.

    """
    if channels not in (1, 3):
        raise ValueError(f"wanted 1 or 3 channels, got {channels}")
    fields = one_over_f((count, 3, height, width), rng)
    casts = rng.standard_normal((count, 3, 1, 1)) * np.array((0.45, 0.7, 0.7)).reshape(3, 1, 1)
    contrast = np.exp(0.3 * rng.standard_normal((count, 1, 1, 1)))
    planes = (casts + contrast * fields) * _SPREAD.reshape(3, 1, 1)
    pictures = np.einsum("nkhw,kc->nchw", planes, _AXES) + _MEAN.reshape(3, 1, 1)
    pictures = _bent(pictures)
    return (pictures.mean(1, keepdims=True) if channels == 1 else pictures).astype(np.float32)


def one_over_f(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian fields over the last two axes whose amplitude falls as 1/f; mean 0 and deviation 1 each."""
    height, width = shape[-2:]
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf  # the mean
    fields = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) / frequency, s=(height, width))
    evened: NDArray[np.float64] = fields / np.maximum(fields.std((-2, -1), keepdims=True), 1e-12)
    return evened


def _bent(pictures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bend what is too dark or too bright back into [0, 1], as film does."""
    away, room = pictures - 0.5, 0.5 - _STRAIGHT
    size = np.abs(away)
    bent = _STRAIGHT + room * np.tanh((size - _STRAIGHT) / room)
    inside: NDArray[np.float64] = 0.5 + np.sign(away) * np.where(size > _STRAIGHT, bent, size)
    return inside
