"""Music-like sound: notes with harmonics, chords, vibrato, and percussive bursts."""

import math

import torch
from torch import Tensor

from zsq_compile.synthesis.signals.segments import draw_segments, hold, to_samples, uniform

_STEP = 0.01  # seconds from frame to frame
_VOICES = 3
_LOWEST = 55.0  # Hz
_SEMITONES = 48
_NOTES = 32  # different notes in one sample


def draw_music(count: int, length: int, rate: float, rng: torch.Generator) -> Tensor:
    """(count, length) sounds of deviation 1: one to three voices, a third of the samples with percussion."""
    frames = max(int(length / rate / _STEP), 2)
    voices = torch.arange(_VOICES, device=rng.device).view(1, -1, 1)
    kept = voices <= torch.randint(_VOICES, (count, 1, 1), generator=rng, device=rng.device)
    beat = float(uniform((1,), 0.12, 0.5, rng))
    segments = draw_segments(count, frames, beat / _STEP, rng)
    semitones = torch.randint(_SEMITONES, (count, _VOICES, _NOTES), generator=rng, device=rng.device).float()
    onset = _since_start(segments).unsqueeze(1) * _STEP
    decay = uniform((count, _VOICES, 1), 0.08, 2.0, rng, log=True)
    strength = to_samples(torch.exp(-onset / decay) * (1.0 - torch.exp(-onset / 0.008)) * kept, length)
    pitch = _LOWEST * 2.0 ** (to_nearest(hold(semitones, segments), length) / 12.0)
    times = torch.arange(length, device=rng.device) / rate
    depth, speed = uniform((count, 1, 1), 0.0, 0.01, rng), uniform((count, 1, 1), 4.0, 7.0, rng)
    vibrato = 1.0 + depth * torch.sin(2 * math.pi * speed * times)
    phase = (pitch * vibrato / rate).double().cumsum(2).remainder(1.0).float() * (2 * math.pi)
    bright = uniform((count, _VOICES, 1), 0.05, 0.85, rng)
    made = (harmonics(phase, bright) * strength).sum(1)
    drums = (torch.rand(count, 1, generator=rng, device=rng.device) < 1 / 3) * uniform((count, 1), 0.3, 1.5, rng)
    made = made + drums * _percussion(count, length, frames, rng)
    return made / made.std(1, keepdim=True, correction=0).clamp_min(1e-6)


def harmonics(phase: Tensor, decay: Tensor) -> Tensor:
    """Sum over k >= 1 of decay^(k-1) sin(k phase), in closed form, for a decay from 0 to below 1."""
    return torch.sin(phase) / (1.0 - 2.0 * decay * torch.cos(phase) + decay.square())


def to_nearest(contours: Tensor, length: int) -> Tensor:
    """(count, K, frames) -> (count, K, length), each sample that of its frame."""
    spread: Tensor = torch.nn.functional.interpolate(contours, length, mode="nearest")
    return spread


def _since_start(segments: Tensor) -> Tensor:
    """Frames since the start of each frame's segment; segments (count, frames)."""
    place = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    is_start = torch.nn.functional.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
    latest: Tensor = torch.where(is_start, place, 0).cummax(1).values
    return (place - latest).float()


def _percussion(count: int, length: int, frames: int, rng: torch.Generator) -> Tensor:
    """Bursts of noise that decay within tens of milliseconds."""
    onset = _since_start(draw_segments(count, frames, 0.25 / _STEP, rng)).unsqueeze(1) * _STEP
    strength = to_samples(torch.exp(-onset / uniform((count, 1, 1), 0.01, 0.08, rng, log=True)), length)[:, 0]
    return strength * torch.randn(count, length, generator=rng, device=rng.device)
