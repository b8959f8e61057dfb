"""Random crops of images, of random size and shape, enlarged to the whole and some of them mirrored."""

import math

import torch

_WIDEST = 4.0 / 3.0
"""Largest ratio of a part's sides, relative to the image's own."""


def local_parts(images: torch.Tensor, rng: torch.Generator, *, smallest: float, share: float) -> torch.Tensor:
    """Replace each of (N, C, H, W) images, with probability ``share``, by an enlarged part of it.

    A part has between ``smallest`` and all of the image's area, and every other one is mirrored, at random. This is
    the local object reinforcement of IntraQ (Zhong et al. 2022). Differentiable, and linear in the
    images; enlarging is bilinear.
    """
    count, _, height, width = images.shape
    draw = torch.rand(6, count, generator=rng, device=rng.device).to(images)
    area = smallest + (1.0 - smallest) * draw[0]
    ratio = torch.exp(math.log(_WIDEST) * (2.0 * draw[1] - 1.0))
    tall, wide = (area / ratio).sqrt().clamp_max(1.0), (area * ratio).sqrt().clamp_max(1.0)
    rows = resampling((1.0 - tall) * draw[2], tall, height)
    columns = resampling((1.0 - wide) * draw[3], wide, width)
    columns = torch.where((draw[4] < 0.5).view(-1, 1, 1), columns.flip(1), columns)
    parts = rows[:, None] @ images @ columns[:, None].transpose(2, 3)
    return torch.where((draw[5] < share).view(-1, 1, 1, 1), parts, images)


def resampling(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """(N, size, size) weights that stretch the part [start, start + length] of a line of ``size`` pixels to all of it.

    ``start`` and ``length`` (N,) are shares of the line. Each row has the linear weights of one new pixel; beyond the
    centres of the outermost pixels the line goes on as it ends.
    """
    pixels = torch.arange(size, device=start.device, dtype=start.dtype)
    places = (start[:, None] + length[:, None] * (pixels + 0.5) / size) * size - 0.5
    away = places.clamp(0.0, size - 1.0)[:, :, None] - pixels
    return (1.0 - away.abs()).clamp_min(0.0)
