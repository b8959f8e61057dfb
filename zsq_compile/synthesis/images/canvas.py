"""What families of drawn pictures have in common: randomness, colours, a change of view, and what a camera does."""

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsq_compile.data.input_spec import PICTURE_CHANNELS
from zsq_compile.synthesis.images.dead_leaves import soften
from zsq_compile.synthesis.images.spectral import power_law_field

Colour: TypeAlias = tuple[float, float, float]
Pixels: TypeAlias = NDArray[np.floating[Any]]
"""(H, W) or (H, W, 3), in [0, 1] where they are colours."""

_SUPERSAMPLED_TO = 192  # rows or columns, whichever are more
_LEAST_CONTRAST = 0.3


def numpy_random(rng: torch.Generator) -> np.random.Generator:
    """NumPy's randomness, which is one draw of ``rng``."""
    return np.random.default_rng(int(torch.randint(1 << 31, (), generator=rng, device=rng.device)))


def happens(gen: np.random.Generator, probability: float) -> bool:
    """Whether something of this probability happens."""
    return bool(gen.random() < probability)


def supersampling(height: int, width: int) -> int:
    """How many times larger than asked to draw, so that edges of thin strokes are soft: 2, and more of small ones."""
    return max(2, math.ceil(_SUPERSAMPLED_TO / max(height, width)))


def to_batch(pictures: list[Pixels], rng: torch.Generator) -> Tensor:
    """Stack (H, W) or (H, W, 3) pictures as (N, 1 or 3, H, W) on the device of ``rng``."""
    stacked = torch.from_numpy(np.stack(pictures)).to(rng.device)
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2).contiguous()


def as_channels(images: Tensor, channels: int) -> Tensor:
    """(N, 3, H, W) as so many channels: brightness alone for 1, and as the fourth of 4.

    Raises:
        ValueError: channels is not 1, 3 or 4.

    """
    if channels not in PICTURE_CHANNELS:
        raise ValueError(f"expected 1, 3 or 4 channels, got {channels}")
    if channels == 3:
        return images
    gray = images.mean(1, keepdim=True)
    return gray if channels == 1 else torch.cat([images, gray], 1)


def as_photographed(images: Tensor, rng: torch.Generator, *, light: float = 0.1, noise: float = 0.04) -> Tensor:
    """Blur half of (N, 3, H, W) pictures as a lens does, light half unevenly, add noise to half; clamps to [0, 1].

    ``light`` is the deviation of the logarithm of the light over a picture, ``noise`` the largest one of the noise.
    """
    count, _, height, width = images.shape
    draw = torch.rand(5, count, 1, 1, 1, generator=rng, device=rng.device)
    steep = torch.full((count,), 2.0, device=rng.device)
    field = power_law_field((count, 1, height, width), steep, rng)
    lit = torch.where(draw[4] < 0.5, images, soften(images, rng)) * ((draw[0] < 0.5) * light * draw[1] * field).exp()
    grain = torch.randn(images.shape, generator=rng, device=rng.device)
    return (lit + (draw[2] < 0.5) * noise * draw[3] * grain).clamp_(0.0, 1.0)


def random_colour(gen: np.random.Generator, brightness: float, chroma: float) -> Colour:
    """Draw a colour of about this brightness; ``chroma`` is the deviation of its channels."""
    shade = chroma * gen.standard_normal(3)
    red, green, blue = np.clip(brightness + shade - shade.mean(), 0.0, 1.0)
    return float(red), float(green), float(blue)


def ink_and_paper(gen: np.random.Generator, *, dark_paper: float = 0.25) -> tuple[Colour, Colour]:
    """Draw colours that differ in brightness by 0.3 at least, the paper dark with this probability."""
    level = 0.3 * gen.random() if happens(gen, dark_paper) else 0.55 + 0.45 * gen.random() ** 0.5
    farthest = 0.0 if level > 0.5 else 1.0
    reach = abs(farthest - level)
    contrast = max(_LEAST_CONTRAST, reach * (1.0 - 0.5 * gen.random() ** 2))
    ink = level - contrast if level > 0.5 else level + contrast
    coloured = (0.0, 0.05, 0.12)
    return (
        random_colour(gen, ink, float(gen.choice(coloured))),
        random_colour(gen, level, float(gen.choice(coloured))),
    )


def as_bytes(colour: Colour) -> tuple[int, int, int]:
    """Return a colour as Pillow takes it."""
    red, green, blue = (round(255.0 * part) for part in colour)
    return red, green, blue


def seen_askew(image: Image.Image, gen: np.random.Generator, jitter: float, fill: int = 0) -> Image.Image:
    """Move the corners of an image by up to ``jitter`` of its smaller side: turned, sheared and in perspective."""
    width, height = image.size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    moved = corners + jitter * min(width, height) * (2.0 * gen.random((4, 2)) - 1.0)
    rows, targets = [], []
    for (x, y), (u, v) in zip(corners, moved, strict=True):  # output (x, y) shows what was at (u, v)
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        targets += [u, v]
    numbers = np.linalg.solve(np.array(rows), np.array(targets))
    return image.transform(
        image.size,
        Image.Transform.PERSPECTIVE,
        [float(number) for number in numbers],
        Image.Resampling.BILINEAR,
        fillcolor=fill if image.mode == "L" else (fill,) * 3,
    )


def reduced(image: Image.Image, width: int, height: int) -> Pixels:
    """Average an image down to a size, in [0, 1]."""
    return np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32) / 255.0


def letterboxed(images: Tensor, gen: np.random.Generator, share: float) -> Tensor:
    """Shrink some of (N, 3, H, W) pictures into their upper left part or their middle, as fits of other shapes are.

    The rest is black, gray or white.
    """
    _, _, height, width = images.shape
    result = images.clone()
    for index in np.flatnonzero(gen.random(len(images)) < share):
        rows, columns = (max(1, round(side * gen.uniform(0.4, 1.0))) for side in (height, width))
        full = gen.choice(3, p=(0.4, 0.3, 0.3))
        rows, columns = (rows, width) if full == 0 else (height, columns) if full == 1 else (rows, columns)
        part = torch.nn.functional.interpolate(images[index : index + 1], (rows, columns), mode="area")[0]
        centred = happens(gen, 0.5)
        top, left = ((height - rows) // 2, (width - columns) // 2) if centred else (0, 0)
        result[index] = float(gen.choice((0.0, 0.0, 114 / 255, 0.5, 1.0)))
        result[index, :, top : top + rows, left : left + columns] = part
    return result
