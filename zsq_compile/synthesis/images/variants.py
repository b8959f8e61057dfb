"""Variants of a few real inputs: what else the same camera or microphone could have taken."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.pictures import Pixels, fit_picture, resize_picture, with_channels
from zsq_compile.synthesis.images.dead_leaves import prior_images

_SMALLEST_CROP = 0.4  # of the side of the largest crop
_LOG_CONTRAST, _BRIGHTNESS, _LOG_COLOUR = 0.35, 0.12, 0.06
_MIXED = 0.25  # of the variants are blended with a drawn picture, and as many have a part of one in them
_LARGEST_PART = 0.6  # of a side that is pasted in
_LINE = 2.5  # width over height of a line of text, which nobody mirrors
_LOG_GAIN, _LEAST_NOISE, _MOST_NOISE = 0.5, -30.0, -10.0  # dB below the signal


def vary_pictures(pictures: Sequence[Pixels], spec: InputSpec, count: int, rng: torch.Generator) -> Tensor:
    """Make variants of pictures of any size, in turn: (count, C, H, W) pixels in [0, 1], the pictures themselves first.

    Crops of various sizes, mirrored, with other contrast, brightness and colours; some blended with drawn pictures or
    with a part of one pasted in.
    """
    if not count:
        return torch.zeros(spec.pictures(0))
    plain = [with_channels(picture, spec.channels) for picture in pictures]
    whole = [fit_picture(picture, spec.height, spec.width) for picture in plain[:count]]
    crops = [_crop(plain[number % len(plain)], spec, rng) for number in range(count - len(whole))]
    pixels = _as_pixels([*whole, *crops])
    if crops:
        pixels[len(whole) :] = _mixed(_recoloured(pixels[len(whole) :], rng), spec, rng)
    return pixels


def crop_pictures(pictures: Sequence[Pixels], spec: InputSpec, count: int, rng: torch.Generator) -> NDArray[np.uint8]:
    """Show pictures in turn, whole and cropped, with nothing else changed: (count, C, H, W), of the input's size."""
    plain = [with_channels(picture, spec.channels) for picture in pictures]
    whole = [fit_picture(picture, spec.height, spec.width) for picture in plain[:count]]
    crops = [_crop(plain[number % len(plain)], spec, rng) for number in range(count - len(whole))]
    return np.ascontiguousarray(np.stack([*whole, *crops]).transpose(0, 3, 1, 2))


def _as_pixels(images: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255.0))


def _crop(picture: Pixels, spec: InputSpec, rng: torch.Generator) -> Pixels:
    """Cut a random part, of the input's proportions, and bring it to the input's size."""
    rows, columns = picture.shape[:2]
    size, down, across, turn = torch.rand(4, generator=rng).tolist()
    scale = min(rows / spec.height, columns / spec.width) * (_SMALLEST_CROP + (1.0 - _SMALLEST_CROP) * size)
    height, width = max(1, round(scale * spec.height)), max(1, round(scale * spec.width))
    top, left = round(down * (rows - height)), round(across * (columns - width))
    part = np.ascontiguousarray(picture[top : top + height, left : left + width])
    sized = resize_picture(part, spec.height, spec.width)
    return sized[:, ::-1] if turn < 0.5 and spec.width < _LINE * spec.height else sized


def _recoloured(pixels: Tensor, rng: torch.Generator) -> Tensor:
    count, channels = pixels.shape[:2]
    contrast, brightness = (2.0 * torch.rand(2, count, 1, 1, 1, generator=rng) - 1.0).unbind()
    colour = _LOG_COLOUR * torch.randn(count, channels, 1, 1, generator=rng)
    middle = pixels.mean((1, 2, 3), keepdim=True)
    stretched = middle + (_LOG_CONTRAST * contrast).exp() * (pixels - middle)
    changed: Tensor = ((stretched + _BRIGHTNESS * brightness) * colour.exp()).clamp(0.0, 1.0)
    return changed


def _mixed(pixels: Tensor, spec: InputSpec, rng: torch.Generator) -> Tensor:
    """Blend some with drawn pictures, and paste a part of one into others."""
    count = len(pixels)
    drawn = prior_images(*spec.pictures(count), rng).cpu()
    kind = torch.rand(count, generator=rng)
    share = torch.zeros(count, 1, *pixels.shape[2:])
    for number in range(count):
        if kind[number] < _MIXED:
            share[number] = 0.2 + 0.4 * float(torch.rand(1, generator=rng))
        elif kind[number] < 2 * _MIXED:
            top, left, height, width = torch.rand(4, generator=rng).tolist()
            down, across = int(top * spec.height), int(left * spec.width)
            tall, wide = 1 + int(_LARGEST_PART * height * spec.height), 1 + int(_LARGEST_PART * width * spec.width)
            share[number, :, down : down + tall, across : across + wide] = 1.0
    return pixels + share * (drawn - pixels)


def vary_signals(samples: NDArray[Any], count: int, rng: torch.Generator, *, shifted: bool) -> Tensor:
    """Make variants of (n, ...) signals or features, in turn: (count, ...), the samples themselves first.

    Others gains, mixtures of two, and noise of the samples' own deviation, 10 to 30 dB below them; ``shifted`` ones
    along the last axis, too.
    """
    whole = torch.from_numpy(np.ascontiguousarray(samples[:count], np.float32))
    left = count - len(whole)
    if left <= 0:
        return whole
    index = torch.arange(left) % len(whole)
    made, axes = whole[index], [1] * (whole.dim() - 1)
    if shifted and made.dim() > 1:
        steps = torch.randint(0, made.shape[-1], (left,), generator=rng).tolist()
        made = torch.stack([one.roll(step, -1) for one, step in zip(made, steps, strict=True)])
    draw = torch.rand(3, left, generator=rng)
    other = whole[torch.randint(0, len(whole), (left,), generator=rng)]
    blend = (0.5 * draw[0] * (torch.arange(left) % 2)).view(-1, *axes)
    gain = (_LOG_GAIN * (2.0 * draw[1] - 1.0)).exp().view(-1, *axes)
    level = 10.0 ** ((_LEAST_NOISE + (_MOST_NOISE - _LEAST_NOISE) * draw[2]) / 20.0)
    noise = torch.randn(made.shape, generator=rng) * whole.std(correction=0) * level.view(-1, *axes)
    return torch.cat([whole, gain * (made + blend * (other - made)) + noise])
