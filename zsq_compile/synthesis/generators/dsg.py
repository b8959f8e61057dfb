"""The ``dsg`` generator: as ``zeroq``, but statistics may be a little off, and every image stresses another layer.

Zhang et al., "Diversifying Sample Generation for Accurate Data-Free Quantization" (CVPR 2021): slack distribution
alignment and layerwise sample enhancement. Both keep images from becoming alike. The terms that the authors' code adds
for quantization after training (random labels, total variation) are left out.
"""

from collections.abc import Sequence

import torch

from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.config.generators import DsgConfig
from zsq_compile.synthesis.generators.baseline_losses import (
    ImageStatistics,
    Slack,
    image_distance,
    image_targets,
    layer_emphasis,
    layer_image_statistics,
    measured_slack,
)
from zsq_compile.synthesis.generators.noise_descent import Loss, Samples, Subject
from zsq_compile.synthesis.generators.zeroq import input_term, spatial_layers
from zsq_compile.synthesis.probe import batches, layer_inputs

_SLACK_BATCH = 32


def dsg_loss(config: DsgConfig, subject: Subject, noise: Samples, rng: torch.Generator) -> Loss:
    """Images matched each by itself, with slack, and with an emphasis on a layer of its own.

    Raises:
        SynthesisError: see ``spatial_layers``.

    """
    layers = spatial_layers(subject)
    targets = image_targets(layers, subject.teacher.device)
    slacks = noise_slacks(subject, layers, targets, noise, config.slack)

    def loss(samples: Samples, members: range) -> torch.Tensor:
        measured = layer_image_statistics(layers, subject.run(samples, layer_inputs(layers)))
        rows = [image_distance(*one) for one in zip(measured, targets, slacks, strict=True)]
        weights = layer_emphasis(members, len(layers), config.emphasis).to(subject.teacher.device)
        return (weights * torch.stack(rows, 1)).sum(1).mean() + input_term(subject, samples)

    return loss


def noise_slacks(
    subject: Subject,
    layers: Sequence[BatchNorm],
    targets: Sequence[ImageStatistics],
    noise: Samples,
    quantile: float,
) -> list[Slack]:
    """Measure for every layer how far off ``noise`` is, and take that quantile of it as slack."""
    parts = []
    for batch in batches(noise, subject.fixed_batch or _SLACK_BATCH):
        with torch.no_grad():
            parts.append(layer_image_statistics(layers, subject.run(batch, layer_inputs(layers))))
    joined = [
        ImageStatistics(
            mean=torch.cat([one.mean for one in column]), deviation=torch.cat([one.deviation for one in column])
        )
        for column in zip(*parts, strict=True)
    ]
    return [measured_slack(one, target, quantile) for one, target in zip(joined, targets, strict=True)]
