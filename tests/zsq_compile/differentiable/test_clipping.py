import math

import pytest
import torch

from zsq_compile.differentiable.clipping import clip

LIMITS = [(0.0, 6.0), (-0.5, 0.75), (-math.inf, 2.0), (0.0, math.inf), (-math.inf, math.inf), (3.0, 1.0), (-2.0, 0.0)]


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("low", "high"), LIMITS)
def test_values_and_gradients_are_those_of_clamp_on_the_limits_too(low: float, high: float, kind: torch.dtype) -> None:
    drawn = 4.0 * torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    edges = torch.tensor([edge for edge in (low, high, 0.0, -0.0) if math.isfinite(edge)], dtype=kind)
    above, below = (torch.nextafter(edges, torch.full_like(edges, side * 10.0)) for side in (1, -1))
    inputs = torch.cat([drawn.to(kind), edges, above, below])
    inputs = inputs[(inputs == 0.0) | (inputs.abs() >= torch.finfo(kind).tiny)]  # neighbours of 0 count as 0
    leaves = [inputs.clone().requires_grad_() for _ in range(2)]
    cut, expected = clip(leaves[0], low, high), torch.clamp(leaves[1], low, high)
    assert torch.equal(cut, expected)
    weights = torch.linspace(1.0, 2.0, len(inputs)).to(kind)
    gradients = [torch.autograd.grad(y, x, weights)[0] for y, x in zip((cut, expected), leaves, strict=True)]
    if low <= high:  # else torch lets what lies between both through, though nothing of it is left
        assert torch.equal(*gradients)
    else:
        assert not gradients[0].any()


def test_the_gradient_is_that_of_finite_differences() -> None:
    values = torch.tensor([-3.0, -0.6, 0.1, 0.74, 0.8, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: clip(x, -0.5, 0.75), (values,))


def test_the_memory_order_stays() -> None:
    values = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    cut = clip(values, 0.0, 6.0)
    (gradient,) = torch.autograd.grad(cut, values, torch.ones_like(cut))
    assert gradient.is_contiguous(memory_format=torch.channels_last)
