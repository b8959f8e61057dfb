"""The ``zeroq`` generator: noise, optimised until every single image shows the remembered statistics by itself.

Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework" (CVPR 2020): the distilled data.
"""

import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.data.preprocessing import imagenet_preprocessing
from zsq_compile.errors import SynthesisError
from zsq_compile.synthesis.generators.baseline_losses import (
    image_distance,
    image_targets,
    input_distance,
    layer_image_statistics,
)
from zsq_compile.synthesis.generators.noise_descent import Loss, run_teacher
from zsq_compile.synthesis.probe import layer_inputs
from zsq_compile.synthesis.task import SynthesisTask, Tensors


def spatial_layers(task: SynthesisTask) -> tuple[BatchNorm, ...]:
    """Return the layers that read more than one position of an image: one number alone has no standard deviation.

    Raises:
        SynthesisError: there are none.

    """
    with torch.no_grad():
        values = task.teacher.run(task.zeros(), layer_inputs(task.layers))
    found = tuple(layer for layer in task.layers if values[layer.input][0, 0].numel() > 1)
    if not found:
        raise SynthesisError(
            "zeroq and dsg match the statistics of single images, and no BatchNormalization of this model reads more "
            "than one position of an image: use --generator pixels"
        )
    return found


def input_term(task: SynthesisTask, samples: Tensors) -> Tensor:
    """Mean over images of the distance of the images themselves from natural pixels."""
    terms = [
        input_distance(imagenet_preprocessing(samples[name].shape[1]).encode(samples[name])).mean()
        for name in sorted(task.pictures)
    ]
    return torch.stack(terms).sum() if terms else torch.zeros((), device=task.teacher.device)


def zeroq_loss(task: SynthesisTask, noise: Tensors, rng: torch.Generator) -> Loss:
    """Match each image's mean and standard deviation in every channel of every layer.

    Raises:
        SynthesisError: see ``spatial_layers``.

    """
    layers = spatial_layers(task)
    targets = image_targets(layers, task.teacher.device)

    def loss(samples: Tensors, members: range) -> Tensor:
        measured = layer_image_statistics(layers, run_teacher(task, samples, layer_inputs(layers)))
        terms = [image_distance(one, other).mean() for one, other in zip(measured, targets, strict=True)]
        return torch.stack(terms).sum() + input_term(task, samples)

    return loss
