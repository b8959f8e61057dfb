import numpy as np
import pytest
import torch

from zsq_compile.synthesis import channel_moments as module
from zsq_compile.synthesis.channel_moments import channel_moments

SHAPES = [(5, 3), (4, 3, 7), (6, 3, 5, 6), (2, 3, 2, 3, 4), (1, 2, 1, 1)]


def plain(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    axes = [axis for axis in range(values.ndim) if axis != 1]
    variance, mean = torch.var_mean(values, dim=axes, correction=0)
    return mean, variance


def drawn(*shape: int, offset: float = 0.0) -> torch.Tensor:
    return offset + torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("portion", [1, 100, 1 << 18])
@pytest.mark.parametrize("shape", SHAPES)
def test_moments_and_gradient_are_those_of_the_plain_form(
    shape: tuple[int, ...], portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PORTION", portion)
    values = drawn(*shape, offset=3.0).requires_grad_()
    weights = drawn(2, shape[1])
    found, gradients = [], []
    for function in (channel_moments, plain):
        mean, variance = function(values)
        found.append(torch.stack([mean, variance]))
        gradients.append(torch.autograd.grad((found[-1] * weights).sum(), values)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_the_gradient_is_that_of_finite_differences(shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(channel_moments, (drawn(*shape).requires_grad_(),))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_many_numbers_far_from_zero_keep_their_digits(
    offset: float, kind: torch.dtype, layout: torch.memory_format
) -> None:
    values = drawn(64, 8, 32, 32, offset=offset).to(kind).contiguous(memory_format=layout)
    mean, variance = channel_moments(values)
    exact_mean, exact_variance = plain(values.double())
    assert mean.dtype == variance.dtype == torch.float32
    np.testing.assert_allclose(mean.double(), exact_mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(variance.double(), exact_variance, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_half_precision_is_rounded_once(layout: torch.memory_format) -> None:
    values = drawn(4, 6, 8, 8).bfloat16().contiguous(memory_format=layout).requires_grad_()
    exact = values.detach().double().requires_grad_()
    gradients = [
        torch.autograd.grad((mean * 2.0 + variance * 3.0).sum(), leaf)[0]
        for leaf, (mean, variance) in ((values, channel_moments(values)), (exact, plain(exact)))
    ]
    assert gradients[0].dtype == torch.bfloat16
    assert gradients[0].is_contiguous(memory_format=layout)
    np.testing.assert_allclose(gradients[0].double(), gradients[1], rtol=2.0**-8, atol=1e-6)


def test_other_strides_are_served() -> None:
    values = drawn(7, 9, 5, 4).transpose(1, 3)
    for found, expected in zip(channel_moments(values), plain(values), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
