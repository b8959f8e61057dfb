"""Signals of a family in the shape of an input."""

import math

import torch
from torch import Tensor

from zsq_compile.data.preprocessing import SignalFamily
from zsq_compile.frontend.kind_clues import BANDS
from zsq_compile.synthesis.images.spectral import power_law_field
from zsq_compile.synthesis.signals.mel import cepstrum, log_powers, mel_powers, powers, sound_length
from zsq_compile.synthesis.signals.noise import prior_signals
from zsq_compile.synthesis.signals.sequences import draw_embeddings, draw_positive, draw_rows
from zsq_compile.synthesis.signals.sound import RATE, draw_sounds

_OTHERS: dict[SignalFamily, tuple[SignalFamily, ...]] = {
    "sound": ("speech", "music", "noises"),
    "levelled": ("noise", "white"),
    "log_mel": ("log_spectrum", "noise"),
    "log_spectrum": ("log_mel", "noise"),
    "mfcc": ("log_mel", "embedding"),
    "mel": ("positive", "bursts"),
    "embedding": ("noise", "white"),
    "positive": ("mel", "bursts"),
    "rows": ("white", "embedding"),
    "noise": ("embedding", "white"),
    "white": ("rows", "embedding"),
    "bursts": ("mel", "positive"),
}

_HIGHEST = 2.0  # logarithm of the highest peak of a burst
_PLATEAU = 7.0  # of the highest plateau, which makes the deviation of both kinds alike
_MELS = 40  # of which a cepstrum is computed
_ORDINARY = 0.02  # deviation that a sound is levelled to before its spectrogram is scaled


def signals(shape: tuple[int, ...], family: SignalFamily, rng: torch.Generator) -> Tensor:
    """Make ``shape[0]`` samples of a family.

    ``noise`` is that of ``prior_signals``; ``white`` has independent standard normal numbers, as the features of a
    table; ``bursts`` are zero or little above it for the most part: noise on a logarithmic scale, whose peaks are
    sharp, and noise cut to plateaus, in turns. ``sound`` is a mixture of ``speech``, ``music``, ``noises`` and
    silence at full scale 1, and ``levelled`` the same with every window at mean 0 and deviation 1; both along the
    last axis. Spectrograms of sounds have frames and bands as their last two axes, the bands first only where their
    number is usual for bands and the other is not: ``mel`` and ``log_mel`` bands, ``log_spectrum`` and ``mfcc``, each
    with mean 0 and deviation 1 over all, but for ``mel``, which is not below 0. ``embedding`` is a sequence of feature
    vectors, ``positive`` one that is not below 0, ``rows`` are those of a table.
    """
    match family:
        case "noise":
            return prior_signals(shape, rng)
        case "white":
            return torch.randn(shape, generator=rng, device=rng.device)
        case "bursts":
            return _draw_bursts(shape, rng)
        case "sound" | "speech" | "music" | "noises" | "levelled":
            return _draw_waveforms(shape, family, rng)
        case "log_mel" | "mfcc" | "mel" | "log_spectrum":
            return _draw_spectrograms(shape, family, rng)
        case "embedding":
            return draw_embeddings(shape, rng)
        case "positive":
            return draw_positive(shape, rng)
        case "rows":
            return draw_rows(shape, rng)


def other_families(family: SignalFamily | None) -> tuple[SignalFamily, ...]:
    """Families of about the same scale that samples of one have not shown: for judging what was calibrated on that.

    Those of spectrograms need two axes of a sample; ``signals`` makes noise of a shape without them.
    """
    return _OTHERS.get(family or "noise", ("noise", "white"))


def _draw_waveforms(shape: tuple[int, ...], family: SignalFamily, rng: torch.Generator) -> Tensor:
    count = math.prod(shape[:-1])
    made = draw_sounds(count, shape[-1], rng, "sound" if family == "levelled" else family)
    if family == "levelled":
        made = made - made.mean(1, keepdim=True)
        made = made / made.std(1, keepdim=True, correction=0).clamp_min(1e-8)
    return made.reshape(shape)


def _draw_spectrograms(shape: tuple[int, ...], family: SignalFamily, rng: torch.Generator) -> Tensor:
    if len(shape) < 3:
        return prior_signals(shape, rng)
    bands_first = shape[-2] in BANDS and shape[-1] not in BANDS
    frames, bands = (shape[-1], shape[-2]) if bands_first else shape[-2:]
    sounds = draw_sounds(math.prod(shape[:-2]), sound_length(frames, RATE), rng)
    if family == "mel":
        level = sounds.std(1, keepdim=True).clamp_min(_ORDINARY)
        made = mel_powers(sounds / level, frames, bands, RATE).sqrt()
        made = made / made.square().mean().sqrt().clamp_min(1e-6)
    else:
        if family == "log_spectrum":
            made = log_powers(powers(sounds, frames, bands))
        else:
            made = log_powers(mel_powers(sounds, frames, bands if family == "log_mel" else max(_MELS, bands), RATE))
        made = cepstrum(made, bands) if family == "mfcc" else made
        made = (made - made.mean()) / made.std().clamp_min(1e-6)
    return (made.transpose(1, 2) if bands_first else made).reshape(shape)


def _draw_bursts(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    made = prior_signals(shape, rng)
    per_sample = (shape[0], *[1] * (len(shape) - 1))
    draw = torch.rand(2, shape[0], generator=rng, device=rng.device)
    smooth = power_law_field(shape, 0.5 + draw[0], rng, axes=1) if len(shape) > 1 else made
    rare, high = 0.5 + 1.3 * draw[0], _PLATEAU * (0.5 + 0.5 * draw[1])
    plateaus = (smooth > rare.view(per_sample)) * high.view(per_sample)
    turn = torch.arange(shape[0], device=rng.device).view(per_sample) % 2
    return torch.where(turn == 0, made.clamp_max(_HIGHEST).exp(), plateaus)
