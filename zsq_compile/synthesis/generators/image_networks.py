"""Generator networks for the image inputs of a network: their sizes and cost, and the pixels that come out.

The output of a GeneratorNetwork is normalised over the batch. A mean and a contrast per channel turn it into pixels;
they start at those of natural images and are learned along, as not every network takes images normalised to mean 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import imagenet_preprocessing
from zsq_compile.errors import SynthesisError
from zsq_compile.synthesis.budget import NETWORKS
from zsq_compile.synthesis.generators.generator_network import NetworkPlan, plan_network
from zsq_compile.synthesis.probe import Cost
from zsq_compile.synthesis.task import SynthesisTask, Tensors

_SHARE_OF_TEACHER = 0.6  # of its multiplications: at 32 pixels and resnet20 the generator is then the published one
_MANY_CLAMPED = 0.1


class PixelScale(nn.Module):
    """Normalised images (N, C, H, W) -> pixels of natural mean and contrast at the start, not clamped to [0, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        natural = imagenet_preprocessing(channels)
        self.mean = nn.Parameter(torch.tensor(natural.mean).view(1, -1, 1, 1))
        self.contrast = nn.Parameter(torch.tensor(natural.std).view(1, -1, 1, 1).log())

    def forward(self, normalised: Tensor) -> Tensor:
        """Scale and shift every channel."""
        return self.mean + self.contrast.exp() * normalised


def require_images(inputs: Sequence[InputSpec], generator: str) -> None:
    """Raise SynthesisError unless all inputs are images, which is what the ``generator`` of this name makes."""
    for spec in inputs:
        if not spec.is_image:
            raise SynthesisError(
                f"the {generator} generator makes images of 1, 3 or 4 channels, and input {spec.name!r} takes "
                f"{spec.dtype} of shape {spec.shape}: use --generator pixels, which serves every float input"
            )


def plan_networks(inputs: Sequence[InputSpec], latent: int, cost: Cost) -> dict[str, NetworkPlan]:
    """Plan a generator network for every image input; together they stay below the teacher's ``cost``."""
    limit = int(_SHARE_OF_TEACHER * cost.multiplications / len(inputs))
    return {spec.name: plan_network(latent, _image_size(spec), limit) for spec in inputs}


def add_networks(cost: Cost, plans: Mapping[str, NetworkPlan]) -> Cost:
    """Add the generators' cost to the teacher's, per sample."""
    elements = sum(
        # a feature map is written by the enlargement, the convolution, its normalisation and its activation
        4 * channels * prod(size)
        for plan in plans.values()
        for channels, size in zip(plan.channels, plan.sizes, strict=True)
    )
    return replace(
        cost,
        multiplications=cost.multiplications + sum(plan.multiplications for plan in plans.values()),
        elements=cost.elements + elements,
    )


def too_much_work(task: SynthesisTask, amount: str, advice: str) -> SynthesisError:
    """Say that fewer iterations can be had at this effort than a generator network needs."""
    return SynthesisError(
        f"{task.name} starts from nothing and needs {NETWORKS.fewest} iterations at least, more than the effort "
        f"{task.effort!r} has time for with {amount} of this network: use --generator pixels, a higher --effort, "
        f"{advice}, or set generator.iterations"
    )


def join_pixels(task: SynthesisTask, batches: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """Join the batches of a set and clamp them to [0, 1]; warn where that changes many pixels."""
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    for name, pixels in joined.items():
        share = float(((pixels < 0.0) | (pixels > 1.0)).float().mean())
        if share > _MANY_CLAMPED:
            task.progress.warn(
                f"input {name!r}: {share:.0%} of the pixels that {task.name} made lay beyond black or white and were "
                "clamped: the statistics of the model may belong to another input range, see --mean and --std"
            )
    return {name: pixels.clamp(0.0, 1.0) for name, pixels in joined.items()}


def _image_size(spec: InputSpec) -> tuple[int, int, int]:
    return spec.channels, spec.height, spec.width
