"""Losses of the published generators: pure functions of tensors, in the units of their papers.

With the mean m and deviation s of one channel of one image, and M and S as the layer remembers them:

    ZeroQ:   Σ_layers mean_images Σ_channels (m - M)² + (s - S)²
    DSG:     the same of max(|m - M| - a, 0) and max(|s - S| - b, 0), with slacks a and b per layer, and weights per
             image and layer
    IntraQ:  mean_layers mean_channels (m - M)² + (v - V)², m and the variance v over the whole batch; so has GDFQ
    ZS-CGAN: mean_channels KL(N(m, v) ‖ N(M, V)) over the whole batch, of all channels of all layers alike
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.synthesis.channel_moments import ActivationMoments
from zsq_compile.synthesis.losses import gaussian_kl

_VARIANCE_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageStatistics:
    """Mean and standard deviation per image and channel, each (N, C); of a target each (C,)."""

    mean: torch.Tensor
    deviation: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Slack:
    """How far a layer's means and deviations may be off at no cost, in the units of its activations."""

    mean: float
    deviation: float


NO_SLACK = Slack(mean=0.0, deviation=0.0)


def image_statistics(values: torch.Tensor) -> ImageStatistics:
    """Measure (N, C, ...) values over all positions of each image; the variance is the unbiased one.

    Raises:
        ValueError: there is only one position, which has no deviation.

    """
    if values.ndim < 3 or values[0, 0].numel() < 2:
        raise ValueError(f"the deviation of an image needs 2 positions at least, got values of {tuple(values.shape)}")
    flat = values.float().flatten(2)
    variance, mean = torch.var_mean(flat, dim=2, correction=1)
    return ImageStatistics(mean=mean, deviation=(variance + _VARIANCE_FLOOR).sqrt())


def image_targets(layers: Sequence[BatchNorm], device: torch.device) -> list[ImageStatistics]:
    """Statistics that the layers remember, without the dead channels."""
    targets = []
    for layer in layers:
        mean, variance = (
            torch.tensor(values[~layer.dead], dtype=torch.float32, device=device)
            for values in (layer.mean, layer.variance)
        )
        targets.append(ImageStatistics(mean=mean, deviation=(variance + _VARIANCE_FLOOR).sqrt()))
    return targets


def layer_image_statistics(layers: Sequence[BatchNorm], values: Mapping[str, torch.Tensor]) -> list[ImageStatistics]:
    """Measure what the layers read, without the dead channels; differentiable."""
    measured = []
    for layer in layers:
        value = values[layer.input]
        alive = torch.from_numpy(~layer.dead).to(value.device)
        measured.append(image_statistics(value[:, alive]))
    return measured


def image_distance(measured: ImageStatistics, target: ImageStatistics, slack: Slack = NO_SLACK) -> torch.Tensor:
    """(N,) squared distances beyond the slack, summed over channels."""
    gaps = (
        ((measured.mean - target.mean).abs() - slack.mean).clamp_min(0.0),
        ((measured.deviation - target.deviation).abs() - slack.deviation).clamp_min(0.0),
    )
    return (gaps[0].square() + gaps[1].square()).sum(1)


def measured_slack(measured: ImageStatistics, target: ImageStatistics, quantile: float) -> Slack:
    """Slack within which this share of the gaps of ``measured`` lies, over all images and channels."""
    mean, deviation = (
        float(np.quantile((one - other).abs().cpu().numpy(), quantile))
        for one, other in ((measured.mean, target.mean), (measured.deviation, target.deviation))
    )
    return Slack(mean=mean, deviation=deviation)


def layer_emphasis(members: range, layers: int, factor: float) -> torch.Tensor:
    """(len(members), layers) weights: ``factor`` where the layer is the image's number modulo ``layers``, else 1."""
    weights = torch.ones(len(members), layers)
    for row, image in enumerate(members):
        weights[row, image % layers] = factor
    return weights


def input_distance(normalised: torch.Tensor) -> torch.Tensor:
    """(N,) squared distances of each image's channel means from 0 and deviations from 1, summed over channels."""
    measured = image_statistics(normalised)
    return measured.mean.square().sum(1) + (measured.deviation - 1.0).square().sum(1)


def moment_errors(measured: Sequence[ActivationMoments], targets: Sequence[ActivationMoments]) -> torch.Tensor:
    """Squared errors of means and of variances, averaged over a layer's channels, then over layers."""
    terms = [
        functional.mse_loss(one.mean, other.mean) + functional.mse_loss(one.variance, other.variance)
        for one, other in zip(measured, targets, strict=True)
    ]
    return torch.stack(terms).mean()


def channel_divergence(measured: Sequence[ActivationMoments], targets: Sequence[ActivationMoments]) -> torch.Tensor:
    """Mean over all channels of all layers of KL(N(measured) ‖ N(target)).

    The published sum grows with the width of the network; the mean does not, so that one weight serves all.
    """
    return torch.cat([gaussian_kl(one, other) for one, other in zip(measured, targets, strict=True)]).mean()


def soft_label_loss(probabilities: torch.Tensor, labels: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
    """Mean of (p - t)², p being the probability (N, classes) of an image's label (N,) and t its ``confidence`` (N,)."""
    return (probabilities.gather(1, labels[:, None])[:, 0] - confidence).square().mean()


def marginal_distance_loss(
    features: torch.Tensor, centres: torch.Tensor, lowest: float, highest: float
) -> torch.Tensor:
    """Mean of how far the cosine distances of (N, F) features from their (N, F) centres are out of the margins."""
    distance = 1.0 - functional.cosine_similarity(features, centres, dim=1)
    return ((lowest - distance).clamp_min(0.0) + (distance - highest).clamp_min(0.0)).mean()
