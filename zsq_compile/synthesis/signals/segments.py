"""Contours over time of which sounds are made: what is held for a while, and what glides."""

import torch
from torch import Tensor


def draw_segments(count: int, frames: int, mean_length: float, rng: torch.Generator) -> Tensor:
    """(count, frames) numbers of segments, from 0 on, whose lengths are geometric with a mean of ``mean_length``."""
    starts = torch.rand(count, frames, generator=rng, device=rng.device) < 1.0 / max(mean_length, 1.0)
    starts[:, :1] = False
    return starts.long().cumsum(1)


def hold(values: Tensor, segments: Tensor) -> Tensor:
    """Give each frame the value of its segment: (count, K, segments) and (count, frames) -> (count, K, frames)."""
    kinds = values.shape[1]
    return values.gather(2, (segments % values.shape[2])[:, None].expand(-1, kinds, -1))


def glide(held: Tensor, width: int) -> Tensor:
    """Average (count, K, frames) over ``width`` frames, which turns steps into glides; ends are repeated."""
    if width < 2:
        return held
    before = width // 2
    padded = torch.nn.functional.pad(held, (before, width - 1 - before), mode="replicate")
    smooth: Tensor = torch.nn.functional.avg_pool1d(padded, width, stride=1)
    return smooth


def to_samples(contours: Tensor, length: int) -> Tensor:
    """Interpolate (count, K, frames) to (count, K, length)."""
    if contours.shape[2] == length:
        return contours
    drawn: Tensor = torch.nn.functional.interpolate(contours, length, mode="linear", align_corners=False)
    return drawn


def uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator, *, log: bool = False) -> Tensor:
    """Draw uniformly between two bounds, on a logarithmic scale if asked for."""
    part = torch.rand(shape, generator=rng, device=rng.device)
    return low * (high / low) ** part if log else low + (high - low) * part
