"""Sequences of feature vectors, and rows of a table: what is known of them is that numbers go together."""

import torch
from torch import Tensor

from zsq_compile.synthesis.images.spectral import power_law_field
from zsq_compile.synthesis.signals.segments import uniform

_FACTORS = 8  # at most, that the features of a vector share
_SHARED = 0.7  # of the variance of a feature is theirs
_TAIL = (4.0, 30.0)  # degrees of freedom, of how heavy the tails of a feature are


def draw_embeddings(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """(N, steps, features) or (N, features) of deviation 1: features of different means and tails.

    They follow a few factors, which change slowly over the steps, as embeddings of sound, text and motion do.
    """
    count, features = shape[0], shape[-1]
    steps = shape[-2] if len(shape) > 2 else 1
    rows = shape[:-2] if len(shape) > 2 else (count,)
    samples = int(torch.tensor(rows).prod())
    factors = min(_FACTORS, features)
    mix = torch.randn(factors, features, generator=rng, device=rng.device) / factors**0.5
    level = 0.3 * torch.randn(features, generator=rng, device=rng.device)
    slow = _over_steps(samples, factors, steps, rng) @ mix
    own = _over_steps(samples, features, steps, rng)
    made = _SHARED**0.5 * slow + (1 - _SHARED) ** 0.5 * own
    degrees = uniform((samples, 1, 1), *_TAIL, rng, log=True)
    noise = torch.randn(samples, steps, features, generator=rng, device=rng.device)
    made = made * (1.0 + noise.square() / degrees)
    contrast = uniform((samples, 1, 1), 0.6, 1.6, rng, log=True)
    made = made * contrast + level
    whole: Tensor = (made / made.std().clamp_min(1e-6)).reshape(shape)
    return whole


def draw_positive(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Embeddings behind a rectifier: many zeros, and a root of the mean square of 1."""
    made = (draw_embeddings(shape, rng) - 0.2).clamp_min(0.0)
    return made / made.square().mean().sqrt().clamp_min(1e-6)


def draw_rows(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Draw rows of a table (N, features), which go together in part: normal, skewed, and of two values, in turns."""
    features = shape[-1]
    factors = min(_FACTORS, features)
    flat = int(torch.tensor(shape[:-1]).prod())
    mix = torch.randn(factors, features, generator=rng, device=rng.device) / factors**0.5
    shared = torch.randn(flat, factors, generator=rng, device=rng.device) @ mix
    own = torch.randn(flat, features, generator=rng, device=rng.device)
    made = 0.5**0.5 * (shared + own)
    turn = torch.arange(features, device=rng.device) % 4
    skewed = (made.exp() - 1.65) / 2.16  # mean and deviation of the exponential of a normal number
    made = torch.where(turn == 2, skewed.clamp_max(5.0), torch.where(turn == 3, made.sign(), made))
    return made.reshape(shape)


def _over_steps(samples: int, features: int, steps: int, rng: torch.Generator) -> Tensor:
    """Draw (samples, steps, features) of deviation 1, which change slowly over the steps."""
    if steps < 4:
        return torch.randn(samples, 1, features, generator=rng, device=rng.device).expand(-1, steps, -1).clone()
    # cut from a sequence four times as long, whose mean is zero as a whole and not in each part
    fields = power_law_field(
        (samples * features, 4 * steps), uniform((samples * features,), 0.4, 1.2, rng), rng, axes=1
    )
    return fields[:, :steps].reshape(samples, features, steps).transpose(1, 2)
