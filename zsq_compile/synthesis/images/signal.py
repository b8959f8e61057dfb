"""Signals for inputs that are no images: noise, independent numbers, and bursts."""

import torch

from zsq_compile.data.preprocessing import SignalFamily
from zsq_compile.synthesis.images.spectral import power_law_field

_WAVEFORM_LENGTH = 4096
_HIGHEST = 2.0  # logarithm of the highest peak of a burst
_PLATEAU = 7.0  # of the highest plateau, which makes the deviation of both kinds alike


def prior_signals(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """Make ``shape[0]`` samples, each a random mixture of white and 1/f noise along the last axis.

    Samples have mean 0 and a standard deviation around 1 that differs between them, as real recordings differ in
    level. A last axis of 4096 and more is taken for a waveform with full scale 1: the level is then spread evenly on a
    logarithmic scale from 0.003 to 0.3, and peaks are cut at full scale.
    """
    if len(shape) == 1 or shape[-1] < 8:
        return torch.randn(shape, generator=rng, device=rng.device)
    per_sample = (shape[0], *[1] * (len(shape) - 1))
    draw = torch.rand(3, shape[0], generator=rng, device=rng.device)
    coloured = power_law_field(shape, 0.5 + draw[0], rng, axes=1)
    white = torch.randn(shape, generator=rng, device=rng.device)
    share = draw[1].view(per_sample)
    mixed = share.sqrt() * coloured + (1 - share).sqrt() * white
    if shape[-1] < _WAVEFORM_LENGTH:
        return mixed * torch.exp(0.8 * (draw[2] - 0.5)).view(per_sample)
    level = 0.003 * 100.0 ** draw[2].view(per_sample)
    return (mixed * level).clamp(-1.0, 1.0)


def signals(shape: tuple[int, ...], family: SignalFamily, rng: torch.Generator) -> torch.Tensor:
    """Make ``shape[0]`` samples of a family.

    ``noise`` is that of ``prior_signals``; ``white`` has independent standard normal numbers, as the features of a
    table; ``bursts`` are zero or little above it for the most part: noise on a logarithmic scale, whose peaks are
    sharp, and noise cut to plateaus, in turns.
    """
    if family == "white":
        return torch.randn(shape, generator=rng, device=rng.device)
    made = prior_signals(shape, rng)
    if family == "noise":
        return made
    per_sample = (shape[0], *[1] * (len(shape) - 1))
    draw = torch.rand(2, shape[0], generator=rng, device=rng.device)
    smooth = power_law_field(shape, 0.5 + draw[0], rng, axes=1) if len(shape) > 1 else made
    rare, high = 0.5 + 1.3 * draw[0], _PLATEAU * (0.5 + 0.5 * draw[1])
    plateaus = (smooth > rare.view(per_sample)) * high.view(per_sample)
    turn = torch.arange(shape[0], device=rng.device).view(per_sample) % 2
    return torch.where(turn == 0, made.clamp_max(_HIGHEST).exp(), plateaus)
