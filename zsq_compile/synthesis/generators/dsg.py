"""The ``dsg`` generator: as ``zeroq``, but statistics may be off by a slack, and every image emphasises another layer.

Zhang et al., "Diversifying Sample Generation for Accurate Data-Free Quantization" (CVPR 2021): slack distribution
alignment and layerwise sample enhancement. Both keep images from becoming alike. The terms that the authors' code adds
for quantization after training (random labels, total variation) are left out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

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
from zsq_compile.synthesis.generators.noise_descent import Loss, run_teacher
from zsq_compile.synthesis.generators.zeroq import input_term, spatial_layers
from zsq_compile.synthesis.probe import batches, layer_inputs
from zsq_compile.synthesis.task import SynthesisTask, Tensors

_SLACK_BATCH = 32


def dsg_loss(config: DsgConfig, task: SynthesisTask, noise: Tensors, rng: torch.Generator) -> Loss:
    """Match each image by itself, with slack, and with emphasis on a layer of its own.

    Raises:
        SynthesisError: see ``spatial_layers``.

    """
    layers = spatial_layers(task)
    targets = image_targets(layers, task.teacher.device)
    slacks = noise_slacks(task, layers, targets, noise, config.slack)

    def loss(samples: Tensors, members: range) -> Tensor:
        measured = layer_image_statistics(layers, run_teacher(task, samples, layer_inputs(layers)))
        rows = [image_distance(*one) for one in zip(measured, targets, slacks, strict=True)]
        weights = layer_emphasis(members, len(layers), config.emphasis).to(task.teacher.device)
        return (weights * torch.stack(rows, 1)).sum(1).mean() + input_term(task, samples)

    return loss


def noise_slacks(
    task: SynthesisTask,
    layers: Sequence[BatchNorm],
    targets: Sequence[ImageStatistics],
    noise: Tensors,
    quantile: float,
) -> list[Slack]:
    """Measure how far off ``noise`` is at every layer, and take that quantile of it as slack."""
    parts = []
    for batch in batches(noise, task.fixed_batch or _SLACK_BATCH):
        with torch.no_grad():
            parts.append(layer_image_statistics(layers, run_teacher(task, batch, layer_inputs(layers))))
    joined = [
        ImageStatistics(
            mean=torch.cat([one.mean for one in column]), deviation=torch.cat([one.deviation for one in column])
        )
        for column in zip(*parts, strict=True)
    ]
    return [measured_slack(one, target, quantile) for one, target in zip(joined, targets, strict=True)]
