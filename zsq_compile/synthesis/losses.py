"""How far measured activations are from BatchNormalization statistics: pure functions of tensors.

With a measured mean m and variance v and the running mean M and variance V of one channel:

    wasserstein:  ((m - M)² + (√v - √V)²) / V     squared 2-Wasserstein distance of the Gaussians, in units of V
    kl:           ((m - M)² + v) / 2V - ln √(v/V) - 1/2     = KL(N(m, v) ‖ N(M, V)), the form of DFAKD and ZS-CGAN

Both are free of the layer's scale, so a sum over layers needs no weights of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

_VARIANCE_FLOOR = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Mean and (biased) variance per channel, each of shape (C,), float32."""

    mean: torch.Tensor
    variance: torch.Tensor


def batch_moments(values: torch.Tensor) -> Moments:
    """Moments over every axis but the channel axis 1 of (N, C, ...) values; taken in float32 whatever their type."""
    precise = values.float()
    axes = [axis for axis in range(precise.ndim) if axis != 1]
    variance, mean = torch.var_mean(precise, dim=axes, correction=0)
    return Moments(mean=mean, variance=variance)


def image_moments(values: torch.Tensor) -> Moments:
    """Moments per sample, (N, C), over the axes after the channel axis 1 of (N, C, H, W) values."""
    precise = values.float()
    variance, mean = torch.var_mean(precise, dim=list(range(2, precise.ndim)), correction=0)
    return Moments(mean=mean, variance=variance)


def joined(parts: Sequence[Moments], sizes: Sequence[int]) -> Moments:
    """Moments of the union of samples whose parts have these moments and ``sizes`` (numbers of values per channel)."""
    whole = sum(sizes)
    shares = [size / whole for size in sizes]
    mean = torch.stack([share * part.mean for share, part in zip(shares, parts, strict=True)]).sum(0)
    spread = [share * (part.variance + (part.mean - mean).square()) for share, part in zip(shares, parts, strict=True)]
    return Moments(mean=mean, variance=torch.stack(spread).sum(0))


def wasserstein(measured: Moments, target: Moments) -> torch.Tensor:
    """Mean over channels of the squared 2-Wasserstein distance in units of the target's variance."""
    deviation = (measured.variance + _VARIANCE_FLOOR).sqrt()
    wanted = target.variance.clamp_min(_VARIANCE_FLOOR)
    distance = (measured.mean - target.mean).square() + (deviation - wanted.sqrt()).square()
    return (distance / wanted).mean()


def gaussian_kl(measured: Moments, target: Moments) -> torch.Tensor:
    """Mean over channels of KL(N(measured) ‖ N(target)); a measured variance of zero is taken as a ten-thousandth."""
    wanted = target.variance.clamp_min(_VARIANCE_FLOOR)
    ratio = (measured.variance / wanted).clamp_min(1e-4)
    shift = (measured.mean - target.mean).square() / wanted
    return 0.5 * (shift + ratio - ratio.log() - 1.0).mean()


def statistics_loss(measured: Sequence[Moments], targets: Sequence[Moments]) -> torch.Tensor:
    """Mean over layers of the Wasserstein distance.

    Raises:
        ValueError: the sequences are empty or differ in length.

    """
    if not targets or len(measured) != len(targets):
        raise ValueError(
            f"wanted as many measured as target moments and at least one, got {len(measured)}, {len(targets)}"
        )
    terms = [wasserstein(one, other) for one, other in zip(measured, targets, strict=True)]
    return torch.stack(terms).mean()


def class_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of (N, classes) logits against (N,) labels; (N, classes, 1, 1) is accepted too."""
    return functional.cross_entropy(logits.float().flatten(1), labels)
