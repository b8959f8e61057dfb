"""Spectrograms as networks take them: mel bands, their logarithms, and cepstral coefficients (MFCC).

Davis and Mermelstein 1980; the mel scale is that of HTK, 2595 log10(1 + f / 700).
"""

import math

import torch
from torch import Tensor

_STEP, _LONGEST_WINDOW = 0.01, 0.025  # seconds
_FLOOR = 1e-10  # of a power, before its logarithm


def to_mel(frequency: Tensor) -> Tensor:
    """Hz to mel."""
    return 2595.0 * torch.log10(1.0 + frequency / 700.0)


def mel_filters(bands: int, size: int, rate: float) -> Tensor:
    """(bands, size // 2 + 1) triangles, evenly on the mel scale from 0 to half the rate, each with a peak of 1.

    A band that lies between two frequencies of the transform takes the nearest.
    """
    frequency = torch.linspace(0.0, rate / 2, size // 2 + 1, dtype=torch.float64)
    edges = torch.linspace(0.0, float(to_mel(frequency[-1])), bands + 2, dtype=torch.float64)
    place = to_mel(frequency)
    rising = (place[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - place[None]) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp_min(0.0)
    empty = filters.sum(1) == 0
    nearest = (place[None] - edges[1:-1, None]).abs().argmin(1)
    filters[empty, nearest[empty]] = 1.0
    return filters.float()


def sound_length(frames: int, rate: float) -> int:
    """Count the samples that a spectrogram of so many frames is of."""
    return frames * int(_STEP * rate)


def mel_powers(sounds: Tensor, frames: int, bands: int, rate: float) -> Tensor:
    """(N, samples) -> (N, frames, bands): mean power in mel bands, 10 ms a frame."""
    step = max(sounds.shape[1] // frames, 1)
    size = 2 ** math.ceil(math.log2(max(_LONGEST_WINDOW * rate, 2.0 * bands)))
    spectrum = _powers(sounds, size, step, min(int(_LONGEST_WINDOW * rate), size))[:, :, :frames]
    filters = mel_filters(bands, size, rate).to(sounds.device)
    summed: Tensor = spectrum.transpose(1, 2) @ filters.T
    return summed


def powers(sounds: Tensor, frames: int, bins: int) -> Tensor:
    """(N, samples) -> (N, frames, bins): power of the frequencies of a transform that has so many."""
    size = 2 * (bins - 1) if bins % 2 else 2 * bins
    spectrum = _powers(sounds, size, max(sounds.shape[1] // frames, 1), size)
    return spectrum[:, :bins, :frames].transpose(1, 2)


def _powers(sounds: Tensor, size: int, step: int, window: int) -> Tensor:
    """(N, size // 2 + 1, frames) squares of a short-time Fourier transform with a Hann window."""
    shape = torch.hann_window(window, device=sounds.device)
    spectrum = torch.stft(sounds, size, step, window, shape, pad_mode="constant", return_complex=True)
    return spectrum.abs().square()


def log_powers(values: Tensor) -> Tensor:
    """Natural logarithms of powers, with a floor."""
    return values.clamp_min(_FLOOR).log()


def cepstrum(log_mel: Tensor, coefficients: int) -> Tensor:
    """(N, frames, bands) -> (N, frames, coefficients): the orthonormal cosine transform over the bands."""
    bands = log_mel.shape[2]
    numbers = torch.arange(coefficients, dtype=torch.float64)[:, None]
    places = torch.arange(bands, dtype=torch.float64)[None] + 0.5
    waves = torch.cos(math.pi / bands * numbers * places) * (2.0 / bands) ** 0.5
    waves[0] *= 0.5**0.5
    coded: Tensor = log_mel @ waves.float().T.to(log_mel.device)
    return coded
