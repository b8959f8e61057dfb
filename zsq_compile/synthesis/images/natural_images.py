"""Dead leaves in NumPy, for those that must not import torch: enough to try a network with.

Opaque discs whose size follows a power law cover each other (Lee, Mumford and Huang 2001), in the colours of
photographs. ``dead_leaves`` has what calibration needs besides: texture, shading, blur and other shapes.
"""

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.input_spec import PICTURE_CHANNELS

# Principal axes of RGB in photographs, as published for ImageNet: brightness, blue against yellow, green against
# magenta. The spreads are the square roots of the shares of a total variance of 3 x 0.23².
COLOUR_AXES = ((0.5675, 0.5808, 0.5836), (0.7192, -0.0045, -0.6948), (0.4009, -0.8140, 0.4203))
COLOUR_SPREAD = (0.36, 0.11, 0.055)
COLOUR_MEAN = (0.485, 0.456, 0.406)
LINEAR_REACH = 0.35
"""Distance from middle gray up to which pixels stay as they are; what lies further out is compressed."""


def natural_images(count: int, channels: int, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Make (count, channels, height, width) images in [0, 1], RGB order.

    One channel is their brightness, and so is the fourth of four.

    Raises:
        ValueError: channels is not 1, 3 or 4.

    """
    if channels not in PICTURE_CHANNELS:
        raise ValueError(f"expected 1, 3 or 4 channels, got {channels}")
    labels, discs = _paint_discs(count, height, width, rng)
    # Colours of one image belong together: a common cast, and discs around it. Chroma has long tails.
    casts = rng.standard_normal((count, 1, 3)) * (0.45, 0.7, 0.7)
    contrast = np.exp(0.3 * rng.standard_normal((count, 1, 1)))
    own = rng.standard_normal((count, discs, 3))
    own[..., 1:] *= 0.7 * np.exp(0.8 * rng.standard_normal((count, discs, 1)))
    colours = ((casts + contrast * own) * COLOUR_SPREAD) @ np.array(COLOUR_AXES) + COLOUR_MEAN
    images = _compress(colours[np.arange(count)[:, None, None], labels]).transpose(0, 3, 1, 2)
    gray = () if channels == 3 else (images.mean(1, keepdims=True),)
    return np.concatenate([*(() if channels == 1 else (images,)), *gray], 1).astype(np.float32)


def one_over_f(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian fields over the last two axes whose amplitude falls as 1/f; mean 0 and standard deviation 1 each."""
    height, width = shape[-2:]
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf  # the mean
    fields = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) / frequency, s=(height, width))
    scaled: NDArray[np.float64] = fields / np.maximum(fields.std((-2, -1), keepdims=True), 1e-12)
    return scaled


def _paint_discs(count: int, height: int, width: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], int]:
    """Paint discs over each other; returns the number of the disc at each pixel, (count, H, W), and how many there are.

    The density of radii falls as r^-2 between two pixels and two fifths of the smaller side.
    """
    labels = np.zeros((count, height, width), np.int64)
    smallest, largest = 2.0, max(3.0, min(height, width) / 2.5)
    discs = int(max(24.0, 1.6 * min(height, width) ** 0.85))
    draw = rng.random((discs, count, 3))
    radii = 1.0 / (1.0 / largest + draw[..., 0] * (1.0 / smallest - 1.0 / largest))
    for disc, image in np.ndindex(discs, count):
        radius, row, column = radii[disc, image], draw[disc, image, 1] * height, draw[disc, image, 2] * width
        rows, columns = (slice(max(0, int(middle - radius)), int(middle + radius) + 2) for middle in (row, column))
        window = labels[image, rows, columns]
        down = np.arange(window.shape[0])[:, None] + rows.start + 0.5 - row
        across = np.arange(window.shape[1]) + columns.start + 0.5 - column
        window[down**2 + across**2 < radius**2] = disc + 1
    return labels, discs + 1


def _compress(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compress what is too dark or too bright into [0, 1], as film does."""
    away, room = images - 0.5, 0.5 - LINEAR_REACH
    size = np.abs(away)
    compressed = LINEAR_REACH + room * np.tanh((size - LINEAR_REACH) / room)
    inside: NDArray[np.float64] = 0.5 + np.sign(away) * np.where(size > LINEAR_REACH, compressed, size)
    return inside
