"""Mean and variance per channel, at the price of a normalisation layer: one read forward, and one fused pass back.

torch's own ``var_mean`` takes its time with Welford's formula for every single number, wants half precision copied to
float32 first, and comes back through five passes. Here torch's kernel of batch normalisation takes the moments of
portions that fit a processor's cache, so that its second look at them, with the mean known, costs no memory traffic.
Portions are joined in float64. With n values per channel, the gradient of the loss L back to a value x is

    dL/dx = 2/n dL/dvariance (x - mean) + 1/n dL/dmean

an affine map per channel, which is what a normalisation with known moments computes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Values at a time: half a megabyte in half precision. It also bounds how many numbers are summed up in float32.
_PORTION = 1 << 18


def channel_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Take mean and biased variance over every axis but the channel axis 1 of floating-point (N, C, ...) values.

    Both have shape (C,), in float32, or in float64 for values of that type. Differentiable once.
    """
    mean, variance = _ChannelMoments.apply(values)  # type: ignore[no-untyped-call]
    return mean, variance


class _ChannelMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        kind = torch.float64 if values.dtype == torch.float64 else torch.float32
        # the kernel takes the type to count in from the running moments, which it would move by a share: by none
        running = torch.zeros(values.shape[1], dtype=kind, device=values.device)
        portions = torch.split(values, max(1, _PORTION // max(1, values[0].numel())))
        parts = [torch.batch_norm_update_stats(portion, running, running.clone(), 0.0) for portion in portions]
        mean, variance = _joined(parts, [len(portion) / len(values) for portion in portions])
        mean, variance = mean.to(kind), variance.to(kind)
        ctx.save_for_backward(values, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Tensor, to_variance: Tensor) -> Tensor:
        values, mean = ctx.saved_tensors
        share = values.shape[1] / values.numel()
        one = torch.ones_like(mean)
        return functional.batch_norm(values, mean, one, 2.0 * share * to_variance, share * to_mean, eps=0.0)


def _joined(parts: list[tuple[Tensor, Tensor]], shares: list[float]) -> tuple[Tensor, Tensor]:
    """Mean and variance of the whole, in float64, from those of its parts."""
    means, variances = (torch.stack(list(column)).double() for column in zip(*parts, strict=True))
    weights = torch.tensor(shares, dtype=torch.float64, device=means.device)
    mean = weights @ means
    return mean, weights @ (variances + (means - mean).square())
