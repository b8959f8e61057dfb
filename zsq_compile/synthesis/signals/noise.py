"""Noise for any float input: the prior of networks that nothing is known of but their shapes."""

import torch

from zsq_compile.synthesis.images.spectral import power_law_field

_WAVEFORM_LENGTH = 4096


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
