"""Procedural images with the statistics of photographs; they need nothing from the network.

Dead leaves (Lee, Mumford and Huang 2001): opaque shapes whose size follows a power law cover each other, which gives
the edges, the occlusion and the 1/f spectrum of natural images. On top come what a scene has besides edges: colours
with the covariance of photographs, texture within a shape, shading, lens blur, and some images of high contrast.

Shapes are painted as labels, all images at once, and colours are looked up by label afterwards.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from zsq_compile.data.input_spec import PICTURE_CHANNELS
from zsq_compile.synthesis.images.natural_images import COLOUR_AXES, COLOUR_MEAN, COLOUR_SPREAD, LINEAR_REACH
from zsq_compile.synthesis.images.spectral import oriented_field, power_law_field

_SUPERSAMPLED_BELOW = 96
_TEXTURES = 3
_STANDARDISED_FROM = 8
_GROUP_PIXELS = 1_400_000  # that are made together, which takes some 500 bytes for each


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Leaves:
    """One property per image and leaf; leaf 0 is the background. Shapes (N, leaves) or (N, leaves, channels)."""

    colour: torch.Tensor
    slope: torch.Tensor
    roughness: torch.Tensor
    texture: torch.Tensor


def prior_images(count: int, channels: int, height: int, width: int, rng: torch.Generator) -> torch.Tensor:
    """Make (count, channels, height, width) images in [0, 1], RGB order, on the device of ``rng``.

    One channel gives the brightness of the colour image, and so does the fourth of four. Deterministic in ``rng``.

    Raises:
        ValueError: channels is not 1, 3 or 4.

    """
    if channels not in PICTURE_CHANNELS:
        raise ValueError(f"expected 1, 3 or 4 channels, got {channels}")
    factor = 2 if max(height, width) < _SUPERSAMPLED_BELOW else 1
    size = (factor * height, factor * width)
    groups = -(-count * size[0] * size[1] // _GROUP_PIXELS)
    sizes = [len(part) for part in torch.arange(count).chunk(max(groups, 1))]
    images = torch.cat([_colour_images(one, size, factor, rng) for one in sizes])
    if channels == 3:
        return images
    gray = images.mean(1, keepdim=True)
    return gray if channels == 1 else torch.cat([images, gray], 1)


def _colour_images(count: int, size: tuple[int, int], factor: int, rng: torch.Generator) -> torch.Tensor:
    """Make images in three colours, of a ``factor``-th of a size."""
    labels, leaf_count = _paint_labels(count, size, rng)
    images = _colour_labels(labels, _draw_leaves(count, leaf_count, rng), rng)
    if factor > 1:
        images = functional.avg_pool2d(images, factor)
    return _compress(_expose(soften(_light(images, rng), rng), rng))


def _paint_labels(count: int, size: tuple[int, int], rng: torch.Generator) -> tuple[torch.Tensor, int]:
    """Paint shapes over each other, one per image and step; returns (N, H, W) int64 labels and their number.

    The radius is drawn per step from a density ∝ r^-2 between a pixel or two and a third of the image, so that a step
    touches only a window of twice its radius in each image. Some images are crowded and some almost empty: each takes
    part from a random step on.
    """
    height, width = size
    labels = torch.zeros(count, height, width, dtype=torch.int64, device=rng.device)
    smallest, largest = 2.0, max(3.0, min(size) / 2.5)
    steps = int(max(24.0, 1.6 * min(size) ** 0.85))
    joins = (steps * torch.rand(count, 1, 1, generator=rng, device=rng.device)).long()
    for leaf in range(1, steps + 1):
        share = float(torch.rand((), generator=rng, device=rng.device))
        radius = 1.0 / (1.0 / largest + share * (1.0 / smallest - 1.0 / largest))
        _paint_leaf(labels, leaf, radius, joins, rng)
    return labels, steps + 1


def _paint_leaf(labels: torch.Tensor, leaf: int, radius: float, joins: torch.Tensor, rng: torch.Generator) -> None:
    """Paint an ellipse or a box of about ``radius`` at a random place of every image that has joined, in place."""
    count, height, width = labels.shape
    device = labels.device
    draw = torch.rand(5, count, 1, 1, generator=rng, device=device)
    centre_row, centre_column = draw[0] * height, draw[1] * width
    aspect = (2.0 * (draw[2] - 0.5)).exp()
    cosine, sine = (math.pi * draw[3]).cos(), (math.pi * draw[3]).sin()
    reach = math.ceil(radius * 1.65 * math.sqrt(2.0))
    window_height, window_width = min(height, 2 * reach), min(width, 2 * reach)
    top = (centre_row.long() - window_height // 2).clamp(0, height - window_height)
    left = (centre_column.long() - window_width // 2).clamp(0, width - window_width)
    rows = top + torch.arange(window_height, device=device).view(1, -1, 1)
    columns = left + torch.arange(window_width, device=device).view(1, 1, -1)
    down, across = rows + 0.5 - centre_row, columns + 0.5 - centre_column
    along = (cosine * across + sine * down).abs() / (radius * aspect.sqrt())
    beside = (cosine * down - sine * across).abs() / (radius / aspect.sqrt())
    round_shape = along.square() + beside.square() < 1.0
    box_shape = torch.maximum(along, beside) < 0.9
    inside = torch.where(draw[4] < 0.6, round_shape, box_shape) & (leaf > joins)
    image = torch.arange(count, device=device).view(-1, 1, 1)
    labels[image, rows, columns] = torch.where(inside, leaf, labels[image, rows, columns])


def _draw_leaves(count: int, leaves: int, rng: torch.Generator) -> _Leaves:
    device = rng.device

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng, device=device)

    axes = torch.tensor(COLOUR_AXES, device=device)
    spread = torch.tensor(COLOUR_SPREAD, device=device)
    # Colours of one image belong together: a common cast, and leaves around it. Chroma has long tails.
    cast = _standardise(normal(count, 1, 3)) * torch.tensor((0.45, 0.7, 0.7), device=device)
    own = normal(count, leaves, 3)
    own[..., 1:] *= (0.8 * normal(count, leaves, 1)).exp() * 0.7
    contrast = (0.3 * normal(count, 1, 1)).exp()
    colour = ((cast + contrast * own) * spread) @ axes + torch.tensor(COLOUR_MEAN, device=device)
    return _Leaves(
        colour=colour,
        slope=0.12 * normal(count, leaves, 2),
        roughness=0.07 * (0.9 * normal(count, leaves)).exp(),
        texture=torch.randint(_TEXTURES, (count, leaves), generator=rng, device=device),
    )


def _colour_labels(labels: torch.Tensor, leaves: _Leaves, rng: torch.Generator) -> torch.Tensor:
    """Look colour, shading and texture up by label: (N, H, W) -> (N, 3, H, W)."""
    count, height, width = labels.shape
    flat = labels.view(count, -1)

    def pick(values: torch.Tensor) -> torch.Tensor:
        return values.gather(1, flat).view(count, height, width)

    rows = torch.linspace(-1, 1, height, device=labels.device).view(1, -1, 1)
    columns = torch.linspace(-1, 1, width, device=labels.device).view(1, 1, -1)
    shading = pick(leaves.slope[..., 0]) * rows + pick(leaves.slope[..., 1]) * columns
    exponent = 0.6 + 0.8 * torch.rand(count, generator=rng, device=labels.device)
    smooth = power_law_field((count, 1, height, width), exponent, rng)
    textures = torch.cat([smooth, oriented_field((count, _TEXTURES - 1, height, width), rng)], 1)
    texture = textures.gather(1, pick(leaves.texture).unsqueeze(1)).squeeze(1)
    shading = shading + pick(leaves.roughness) * texture
    planes = [pick(leaves.colour[..., channel]) for channel in range(3)]
    return torch.stack(planes, 1) + shading.unsqueeze(1)


def _light(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Multiply by a light that changes softly over the image, and add a faint coloured 1/f field."""
    count, channels, height, width = images.shape
    steep = torch.full((count,), 2.0, device=images.device)
    light = (0.15 * power_law_field((count, 1, height, width), steep, rng)).exp()
    veil = power_law_field((count, channels, height, width), steep - 1.0, rng)
    amount = 0.03 * torch.rand(count, 1, 1, 1, generator=rng, device=images.device)
    return images * light + amount * veil


def soften(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Blur as a lens does: mix every image with two binomial blurs of itself, from sharp to soft."""
    channels = images.shape[1]
    row = torch.tensor((1.0, 4.0, 6.0, 4.0, 1.0), device=images.device) / 16.0
    kernel = (row[:, None] * row[None, :]).expand(channels, 1, 5, 5)

    def blur(image: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(functional.pad(image, (2, 2, 2, 2), mode="replicate"), kernel, groups=channels)

    once = blur(images)
    strength = 1.4 * torch.rand(images.shape[0], 1, 1, 1, generator=rng, device=images.device)
    first, second = strength.clamp(0.0, 1.0), (strength - 1.0).clamp_min(0.0)
    return (1 - first) * images + (first - second) * once + second * blur(once)


def _expose(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Give every image its own contrast around its mean; photographs differ by a factor of two and more."""
    gain = (0.25 * _standardise(torch.randn(images.shape[0], 1, 1, 1, generator=rng, device=images.device))).exp()
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + gain * (images - mean)


def _compress(images: torch.Tensor) -> torch.Tensor:
    """Compress what is too dark or too bright into [0, 1], as film and cameras do, instead of clipping it."""
    away = images - 0.5
    size = away.abs()
    compressed = LINEAR_REACH + (0.5 - LINEAR_REACH) * torch.tanh((size - LINEAR_REACH) / (0.5 - LINEAR_REACH))
    return 0.5 + away.sign() * torch.where(size > LINEAR_REACH, compressed, size)


def _standardise(values: torch.Tensor) -> torch.Tensor:
    """Give normal numbers mean 0 and deviation 1 over the first axis: a small set is as balanced as a large one."""
    if len(values) < _STANDARDISED_FROM:
        return values
    return (values - values.mean(0)) / values.std(0, correction=0).clamp_min(1e-6)
