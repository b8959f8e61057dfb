"""Sounds of no source: noise of all colours, hum, clicks, and silence."""

import math

import torch
from torch import Tensor

from zsq_compile.synthesis.images.spectral import power_law_field
from zsq_compile.synthesis.signals.segments import uniform


def draw_noises(count: int, length: int, rate: float, rng: torch.Generator) -> Tensor:
    """(count, length) of deviation 1: noise between white and brown; a quarter with hum, a quarter with clicks."""
    made = power_law_field((count, length), uniform((count,), 0.0, 1.0, rng), rng, axes=1)
    mains = 50.0 + 10.0 * torch.randint(2, (count, 1), generator=rng, device=rng.device)
    times = torch.arange(length, device=rng.device) / rate
    hum = torch.zeros(count, length, device=rng.device)
    for harmonic in (1, 2, 3, 5):
        shift = 2 * math.pi * torch.rand(count, 1, generator=rng, device=rng.device)
        hum = hum + torch.sin(2 * math.pi * harmonic * mains * times + shift) / harmonic
    clicks = torch.randn(count, length, generator=rng, device=rng.device)
    clicks = clicks * (torch.rand(count, length, generator=rng, device=rng.device) < 1e-3)
    chance = torch.rand(2, count, 1, generator=rng, device=rng.device)
    made = made + (chance[0] < 0.25) * 2.0 * hum + (chance[1] < 0.25) * 5.0 * clicks
    return made / made.std(1, keepdim=True, correction=0).clamp_min(1e-6)
