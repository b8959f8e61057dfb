import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.synthesis.images.spectral import (
    gaussian_low_pass,
    oriented_field,
    power_law_field,
    power_law_filter,
    radial_frequency,
)


def slope(fields: torch.Tensor, axes: int) -> float:
    """Exponent of the amplitude spectrum, by a straight line through log-spaced rings."""
    sizes = tuple(fields.shape[-axes:])
    amplitude = torch.fft.rfftn(fields, dim=tuple(range(-axes, 0))).abs().square().flatten(0, -axes - 1).mean(0).sqrt()
    frequency = radial_frequency(sizes, torch.device("cpu"))
    rings = np.geomspace(2.0 / max(sizes), 0.45, 8)
    points = [
        (np.log((low * high) ** 0.5), np.log(amplitude[(frequency >= low) & (frequency < high)].mean().item()))
        for low, high in pairwise(rings)
    ]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0])


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_fields_have_the_wanted_spectrum(exponent: float) -> None:
    fields = power_law_field((24, 1, 64, 64), torch.full((24,), exponent), seeded())
    assert slope(fields, 2) == pytest.approx(-exponent, abs=0.1)


def test_one_dimensional_fields_have_the_wanted_spectrum() -> None:
    fields = power_law_field((64, 2, 512), torch.ones(64), seeded(), axes=1)
    assert slope(fields, 1) == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize(
    "fields",
    [power_law_field((6, 2, 20, 33), torch.ones(6), seeded()), oriented_field((6, 2, 20, 33), seeded())],
    ids=["power law", "oriented"],
)
def test_fields_are_standardised(fields: torch.Tensor) -> None:
    assert fields.shape == (6, 2, 20, 33)
    torch.testing.assert_close(fields.mean((2, 3)), torch.zeros(6, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(fields.std((2, 3), correction=0), torch.ones(6, 2), atol=1e-4, rtol=0)


def test_the_filter_keeps_a_constant_and_damps_by_one_over_f() -> None:
    height, width = 1, 64
    constant = torch.full((1, 1, height, width), 3.0)
    torch.testing.assert_close(power_law_filter(constant), constant)
    wave = torch.cos(np.pi * (torch.arange(width) + 0.5) * 16 / width)  # a mode of the mirrored picture
    damped = power_law_filter(wave.view(1, 1, 1, width))
    torch.testing.assert_close(damped, wave.view(1, 1, 1, width) / 16.0, atol=1e-5, rtol=0)


def test_the_filter_is_symmetric_and_positive_so_that_a_filtered_gradient_still_leads_down() -> None:
    one, other = torch.randn(2, 1, 1, 9, 12, generator=seeded())
    assert (power_law_filter(one) * other).sum().item() == pytest.approx(
        (one * power_law_filter(other)).sum().item(), rel=1e-4
    )
    assert (power_law_filter(one) * one).sum() > 0


def test_the_gaussian_filter_weighs_a_cosine_by_the_closed_form() -> None:
    """Cosines with any number of half waves over a line are what mirroring at the borders leaves as they are."""
    places = torch.arange(32, dtype=torch.float64) + 0.5
    for half_waves in (1, 5, 12):
        frequency = half_waves / 64
        wave = torch.cos(2 * torch.pi * frequency * places).expand(1, 1, 16, 32)
        expected = wave * math.exp(-0.5 * (frequency / 0.2) ** 2)
        torch.testing.assert_close(gaussian_low_pass(wave, 0.2), expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 9, 14), (1, 2, 1, 7), (3, 1, 5, 1)])
def test_filters_are_those_of_the_fourier_transform_of_the_mirrored_picture(shape: tuple[int, ...]) -> None:
    pictures = torch.randn(shape, dtype=torch.float64, generator=seeded())
    height, width = shape[-2:]
    mirrored = torch.cat([pictures, pictures.flip(-1)], -1)
    mirrored = torch.cat([mirrored, mirrored.flip(-2)], -2)
    frequency = radial_frequency((2 * height, 2 * width), pictures.device)
    lowest = 0.5 / max(height, width)
    for found, gain in (
        (power_law_filter(pictures), lowest / frequency.clamp_min(lowest)),
        (gaussian_low_pass(pictures, 0.2), torch.exp(-0.5 * (frequency / 0.2) ** 2)),
    ):
        whole = torch.fft.irfft2(torch.fft.rfft2(mirrored) * gain, s=(2 * height, 2 * width))
        torch.testing.assert_close(found, whole[..., :height, :width], rtol=0.0, atol=1e-6)
