"""Random fields with a power-law spectrum, and a filter of that shape.

The amplitude spectrum of natural images falls as 1/f, the same over all orientations (Field 1987).
"""

import math
from collections.abc import Callable

import torch


def power_law_field(
    shape: tuple[int, ...], exponent: torch.Tensor, rng: torch.Generator, *, axes: int = 2
) -> torch.Tensor:
    """Gaussian fields whose amplitude spectrum falls as f^-exponent over the last ``axes`` (1 or 2) axes.

    ``exponent`` has shape (shape[0],). Every field has mean 0 and standard deviation 1, where its size allows.
    """
    sizes = shape[-axes:]
    dims = tuple(range(-axes, 0))
    spectrum = torch.fft.rfftn(torch.randn(shape, generator=rng, device=rng.device), dim=dims)
    frequency = radial_frequency(sizes, rng.device)
    lowest = 1.0 / max(sizes)
    per_sample = exponent.view(-1, *[1] * (len(shape) - 1))
    spectrum = spectrum * frequency.clamp_min(lowest) ** -per_sample * (frequency > 0)
    fields: torch.Tensor = torch.fft.irfftn(spectrum, s=sizes, dim=dims)
    return _standardise(fields, axes)


def oriented_field(shape: tuple[int, int, int, int], rng: torch.Generator) -> torch.Tensor:
    """(N, K, H, W) band-limited random fields, each with one random orientation and wavelength: fur, grass, ripples.

    Wavelengths lie between 3 pixels and a third of the smaller side. Mean 0, standard deviation 1.
    """
    count, kinds, height, width = shape
    draw = torch.rand(count, kinds, 2, generator=rng, device=rng.device)
    shortest, longest = 3.0, max(4.0, min(height, width) / 3)
    centre = 1.0 / (shortest * (longest / shortest) ** draw[..., 0])
    angle = math.pi * draw[..., 1]
    rows = torch.fft.fftfreq(height, device=rng.device).view(1, 1, -1, 1)
    columns = torch.fft.rfftfreq(width, device=rng.device).view(1, 1, 1, -1)
    at_row, at_column = ((centre * part)[..., None, None] for part in (angle.sin(), angle.cos()))
    bandwidth = 0.35 * centre[..., None, None]
    near = torch.zeros(count, kinds, height, columns.shape[-1], device=rng.device)
    for sign in (1.0, -1.0):
        away = (rows - sign * at_row).square() + (columns - sign * at_column).square()
        near = near + (-away / (2 * bandwidth.square())).exp()
    near[..., 0, 0] = 0.0
    spectrum = torch.fft.rfft2(torch.randn(shape, generator=rng, device=rng.device)) * near
    fields: torch.Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    return _standardise(fields, 2)


def radial_frequency(sizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Distance from frequency zero, in cycles per sample, on the grid of ``rfftn`` over ``sizes`` (1 or 2 axes)."""
    columns: torch.Tensor = torch.fft.rfftfreq(sizes[-1], device=device)
    if len(sizes) == 1:
        return columns
    rows: torch.Tensor = torch.fft.fftfreq(sizes[-2], device=device)
    return (rows.square()[:, None] + columns.square()[None, :]).sqrt()


def power_law_filter(images: torch.Tensor, exponent: float = 1.0) -> torch.Tensor:
    """Weigh the frequencies of (N, C, H, W) images by f^-exponent, the lowest by 1, the mean as the lowest."""
    lowest = 0.5 / max(images.shape[-2:])
    return _weigh(images, lambda frequency: (frequency.clamp_min(lowest) / lowest) ** -exponent)


def gaussian_low_pass(images: torch.Tensor, deviation: float) -> torch.Tensor:
    """Weigh the frequencies f of (N, C, H, W) images by exp(-f² / 2 deviation²), in cycles per pixel.

    The filter of SynQ (ICLR 2025), whose D0 at S pixels is a deviation of D0 / S. Means stay.
    """
    return _weigh(images, lambda frequency: (-0.5 * (frequency / deviation).square()).exp())


def _weigh(images: torch.Tensor, gain: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Weigh frequencies by ``gain``.

    The image is mirrored at its borders, so that no border leaks to the opposite one: its waves are then cosines. At
    the sizes that networks take, matrix products compute them faster than an FFT of the mirrored image does.
    """
    height, width = images.shape[-2:]
    down, across = (_cosines(side, images) for side in (height, width))
    rows, columns = (torch.arange(side, device=images.device) / (2.0 * side) for side in (height, width))
    weights = gain((rows.square()[:, None] + columns.square()[None, :]).sqrt()).to(images.dtype)
    waves = down @ (images.contiguous() @ across.T)
    filtered: torch.Tensor = down.T @ (waves * weights) @ across
    return filtered


def _cosines(side: int, like: torch.Tensor) -> torch.Tensor:
    """(side, side) orthonormal waves in rows, of 0, 1, 2, ... half periods over the side: the DCT-II."""
    numbers = torch.arange(side, dtype=torch.float64, device=like.device)
    waves: torch.Tensor = torch.cos(math.pi / side * numbers[:, None] * (numbers + 0.5)[None, :]) * (2.0 / side) ** 0.5
    waves[0] *= 0.5**0.5
    return waves.to(like.dtype)


def _standardise(fields: torch.Tensor, axes: int) -> torch.Tensor:
    return fields / fields.std(dim=tuple(range(-axes, 0)), keepdim=True, correction=0).clamp_min(1e-6)
