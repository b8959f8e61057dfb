"""Speech-like sound: glottal pulses through moving formants, unvoiced noise, breath, pauses, a room.

The model of source and filter (Fant 1960). The source of voiced sound is the derivative of Rosenberg's glottal pulse
(1971) with a pitch that falls, rises and trembles; that of unvoiced sound is white noise. Short frames of the source
are weighed in the frequency domain by resonances, as those of the vocal tract, and added up again.
"""

import math

import torch
from torch import Tensor

from zsq_compile.synthesis.signals.segments import draw_segments, glide, hold, to_samples, uniform

_STEP = 0.008  # seconds from frame to frame
_SEGMENT = 0.09  # mean seconds of a sound of speech
_KINDS = 48  # different sounds in one sample
_VOICED, _UNVOICED, _BREATH = 0.6, 0.2, 0.04  # shares of the sounds; the others are pauses
_FORMANTS = ((250.0, 900.0, 60.0), (700.0, 2500.0, 90.0), (1900.0, 3300.0, 140.0), (3000.0, 4300.0, 220.0))
"""Lowest and highest frequency, and bandwidth, in Hz: of men, women and children (Peterson and Barney 1952)."""

_ROOM, _ROOM_SHARE = 0.25, 0.5  # seconds until the reverberation is 60 dB down, at most; share of sounds with a room


def draw_speech(count: int, length: int, rate: float, rng: torch.Generator) -> Tensor:
    """(count, length) speech-like sounds of deviation 1, ``rate`` samples a second."""
    step = max(int(_STEP * rate), 1)
    frames = length // step + 2
    segments = draw_segments(count, frames, _SEGMENT / _STEP, rng)
    kind = torch.rand(count, 1, _KINDS, generator=rng, device=rng.device)
    loud = uniform((count, 1, _KINDS), 0.25, 1.0, rng, log=True)
    voiced = (kind < _VOICED) * loud
    noisy = ((kind >= _VOICED) & (kind < _VOICED + _UNVOICED)) * loud * 0.3
    breath = (kind > 1.0 - _BREATH) * 0.05 * loud
    strengths = glide(hold(torch.cat([voiced, noisy, breath], 1), segments), 4)
    low, high, _ = (torch.tensor(row, device=rng.device).view(1, -1, 1) for row in zip(*_FORMANTS, strict=True))
    targets = low + (high - low) * torch.rand(count, len(_FORMANTS), _KINDS, generator=rng, device=rng.device)
    formants = glide(hold(targets, segments), 6)
    hiss = glide(hold(uniform((count, 1, _KINDS), 1800.0, 7000.0, rng), segments), 3)
    pulses = _glottal_source(count, length, frames, rate, rng)
    white = torch.randn(count, length, generator=rng, device=rng.device)
    gains = to_samples(strengths, length)
    bandwidths = torch.tensor([row[2] for row in _FORMANTS], device=rng.device).view(1, -1, 1)
    tract = filter_resonances((pulses + 0.02 * white) * (gains[:, 0] + gains[:, 2]), formants, bandwidths, rate)
    hissing = filter_resonances(white * gains[:, 1], hiss, torch.full_like(bandwidths[:, :1], 1500.0), rate)
    spoken = _add_room(_normalised(tract) + 0.3 * _normalised(hissing), rate, rng)
    return _normalised(spoken)


def _glottal_source(count: int, length: int, frames: int, rate: float, rng: torch.Generator) -> Tensor:
    """Draw the derivative of glottal flow: a slow opening, and a sharp closing once a period."""
    base = uniform((count, 1, 1), 80.0, 320.0, rng, log=True)
    bends = torch.randn(count, 1, max(frames // 12, 2), generator=rng, device=rng.device)
    contour = (base * torch.exp(0.18 * to_samples(bends, frames))).clamp(50.0, 600.0)
    pitch = to_samples(contour, length)[:, 0]
    tremble = 1.0 + 0.01 * torch.randn(count, length, generator=rng, device=rng.device)
    phase = (pitch * tremble / rate).double().cumsum(1).remainder(1.0).float()
    opening, closing = 0.45, 0.16  # shares of a period
    rising = (math.pi / (2 * opening)) * torch.sin(math.pi * phase / opening)
    falling = -(math.pi / (2 * closing)) * torch.sin(math.pi * (phase - opening) / (2 * closing))
    source = torch.where(phase < opening, rising, torch.where(phase < opening + closing, falling, 0.0))
    return source - source.mean(1, keepdim=True)


def filter_resonances(sound: Tensor, centres: Tensor, bandwidths: Tensor, rate: float) -> Tensor:
    """Filter (count, length) sounds by resonances that move.

    Args:
        sound: to be filtered.
        centres: (count, K, frames) frequencies in Hz, evenly over the length.
        bandwidths: (1 or count, K, 1) in Hz.
        rate: samples a second.

    Returns:
        (count, length): the sum of overlapping frames, each weighed by the product of its resonances' gains, which are
        1 at frequency 0 for two-pole resonators (Klatt 1980).

    """
    length, size = sound.shape[1], _frame_size(sound.shape[1], rate)
    window = torch.hann_window(size, device=sound.device)
    spectrum = torch.stft(sound, size, size // 4, window=window, return_complex=True, pad_mode="constant")
    frequency = torch.linspace(0.0, rate / 2, size // 2 + 1, device=sound.device).view(1, -1, 1)
    gain = torch.ones(1, device=sound.device)
    moved = to_samples(centres, spectrum.shape[2])
    for number in range(centres.shape[1]):
        centre, width = moved[:, number : number + 1], bandwidths[:, number : number + 1]
        square = centre.square() + (width / 2).square()
        below = (frequency - centre).square() + (width / 2).square()
        above = (frequency + centre).square() + (width / 2).square()
        gain = gain * square / (below * above).sqrt()
    filtered: Tensor = torch.istft(spectrum * gain, size, size // 4, window=window, length=length)
    return filtered


def _frame_size(length: int, rate: float) -> int:
    """Power of two nearest to 32 ms; smaller of a short sound."""
    return int(2 ** round(math.log2(max(min(0.032 * rate, length), 16.0))))


def _add_room(sound: Tensor, rate: float, rng: torch.Generator) -> Tensor:
    """Add reverberation: exponentially decaying noise as the room's response (Polack 1988)."""
    count, length = sound.shape
    taps = max(min(int(_ROOM * rate), length), 1)
    decay = uniform((count, 1), 0.05, _ROOM, rng)
    times = torch.arange(taps, device=sound.device) / rate
    tail = torch.randn(count, taps, generator=rng, device=rng.device) * torch.exp(-6.9 * times / decay)
    tail = tail / tail.square().sum(1, keepdim=True).sqrt()
    amount = uniform((count, 1), 0.05, 0.7, rng) * (
        torch.rand(count, 1, generator=rng, device=rng.device) < _ROOM_SHARE
    )
    size = 2 ** math.ceil(math.log2(length + taps))
    late: Tensor = torch.fft.irfft(torch.fft.rfft(sound, size) * torch.fft.rfft(tail, size), size)[:, :length]
    return sound + amount * late


def _normalised(sound: Tensor) -> Tensor:
    return sound / sound.std(1, keepdim=True, correction=0).clamp_min(1e-6)
