"""Mean and variance per channel, at the price of a normalisation layer: one read forward, and one fused pass back.

torch's own ``var_mean`` takes its time with Welford's formula for every single number, wants half precision copied to
float32 first, and comes back through five passes. Here torch's kernel of batch normalisation takes the moments of
portions that fit a processor's cache, so that its second look at them, with the mean known, costs no memory traffic.
Portions are joined in float64. With n values per channel, the gradient of the loss L back to a value x is

    dL/dx = 2/n dL/dvariance (x - mean) + 1/n dL/dmean

an affine map per channel, which is what a normalisation with known moments computes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Values at a time: half a megabyte in half precision. It also bounds how many numbers are summed up in float32.
_PORTION = 1 << 18


class ActivationMoments(NamedTuple):
    """Mean and biased variance per channel, each of shape (C,), float32 at least."""

    mean: Tensor
    variance: Tensor


def channel_moments(values: Tensor) -> ActivationMoments:
    """Take the moments of floating-point (N, C, ...) values over every axis but the channel axis 1.

    They are in float32, or in float64 for values of that type. Differentiable once.
    """
    return ActivationMoments(*_ChannelMoments.apply(values))  # type: ignore[no-untyped-call]


def join_moments(parts: Sequence[ActivationMoments], sizes: Sequence[int]) -> ActivationMoments:
    """Moments of the union of samples whose parts have these moments and ``sizes`` (numbers of values per channel)."""
    whole = sum(sizes)
    shares = [size / whole for size in sizes]
    mean = torch.stack([share * part.mean for share, part in zip(shares, parts, strict=True)]).sum(0)
    spread = [share * (part.variance + (part.mean - mean).square()) for share, part in zip(shares, parts, strict=True)]
    return ActivationMoments(mean=mean, variance=torch.stack(spread).sum(0))


class _ChannelMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        kind = torch.float64 if values.dtype == torch.float64 else torch.float32
        # The kernel computes in the type of the running moments; a momentum of 0 leaves them as they are.
        running = torch.zeros(values.shape[1], dtype=kind, device=values.device)
        portions = torch.split(values, max(1, _PORTION // max(1, values[0].numel())))
        parts = [torch.batch_norm_update_stats(portion, running, running.clone(), 0.0) for portion in portions]
        mean, variance = _join_portions(parts, [len(portion) / len(values) for portion in portions])
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


def _join_portions(parts: list[tuple[Tensor, Tensor]], shares: list[float]) -> tuple[Tensor, Tensor]:
    """Mean and variance of the whole, in float64, from those of its parts."""
    means, variances = (torch.stack(list(column)).double() for column in zip(*parts, strict=True))
    weights = torch.tensor(shares, dtype=torch.float64, device=means.device)
    mean = weights @ means
    return mean, weights @ (variances + (means - mean).square())
