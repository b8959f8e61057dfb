"""The ``zeroq`` generator: noise, every image of it moved until its own statistics are those remembered.

Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework" (CVPR 2020): the distilled data.
"""

import torch

from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.errors import SynthesisError
from zsq_compile.synthesis.generators.baseline_losses import (
    image_distance,
    image_targets,
    input_distance,
    layer_image_statistics,
)
from zsq_compile.synthesis.generators.noise_descent import Loss, Samples, Subject
from zsq_compile.synthesis.probe import layer_inputs


def spatial_layers(subject: Subject) -> tuple[BatchNorm, ...]:
    """Return the layers that read more than one position of an image: one number alone has no deviation.

    Raises:
        SynthesisError: there are none.

    """
    with torch.no_grad():
        values = subject.teacher.run(subject.blank(), layer_inputs(subject.layers))
    found = tuple(layer for layer in subject.layers if values[layer.input][0, 0].numel() > 1)
    if not found:
        raise SynthesisError(
            "zeroq and dsg match the statistics of single images, and no BatchNormalization of this model reads more "
            "than one position of an image: use --generator pixels"
        )
    return found


def input_term(subject: Subject, samples: Samples) -> torch.Tensor:
    """Mean over images of the distance of the pictures themselves from natural pixels."""
    terms = [input_distance(pictures).mean() for pictures in subject.normalised(samples)]
    return torch.stack(terms).sum() if terms else torch.zeros((), device=subject.teacher.device)


def zeroq_loss(subject: Subject, noise: Samples, rng: torch.Generator) -> Loss:
    """Images that each show the whole population's mean and deviation in every channel of every layer.

    Raises:
        SynthesisError: see ``spatial_layers``.

    """
    layers = spatial_layers(subject)
    targets = image_targets(layers, subject.teacher.device)

    def loss(samples: Samples, members: range) -> torch.Tensor:
        measured = layer_image_statistics(layers, subject.run(samples, layer_inputs(layers)))
        terms = [image_distance(one, other).mean() for one, other in zip(measured, targets, strict=True)]
        return torch.stack(terms).sum() + input_term(subject, samples)

    return loss
