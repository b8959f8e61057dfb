"""Generator networks for a network's picture inputs: which inputs are pictures, the sizes and the work, the pixels.

What a GeneratorNetwork makes is normalised over the batch. A mean and a contrast per channel turn it into pixels; they
start at those of natural pictures and are learned along, as not every network takes pictures normalised to mean 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import imagenet_preprocessing
from zsq_compile.errors import SynthesisError
from zsq_compile.progress import Progress
from zsq_compile.synthesis.generators.generator_network import NetworkPlan, plan_network
from zsq_compile.synthesis.probe import Cost

_SHARE_OF_TEACHER = 0.6  # of its multiplications: at 32 pixels and resnet20 the generator is then the published one
_MANY_CUT = 0.1


class PixelScale(nn.Module):
    """Normalised pictures (N, C, H, W) -> pixels of natural mean and contrast at the start, not cut to [0, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        natural = imagenet_preprocessing(channels)
        self.mean = nn.Parameter(torch.tensor(natural.mean).view(1, -1, 1, 1))
        self.contrast = nn.Parameter(torch.tensor(natural.std).view(1, -1, 1, 1).log())

    def forward(self, normalised: Tensor) -> Tensor:
        """Scale and shift every channel."""
        return self.mean + self.contrast.exp() * normalised


def require_pictures(inputs: Sequence[InputSpec], generator: str) -> tuple[InputSpec, ...]:
    """Return the inputs if all of them are pictures, which is what the ``generator`` of this name makes.

    Raises:
        SynthesisError: one is not.

    """
    for spec in inputs:
        if not spec.is_image:
            raise SynthesisError(
                f"the {generator} generator makes pictures of 1 or 3 channels, and input {spec.name!r} takes "
                f"{spec.dtype} of shape {spec.shape}: use --generator pixels, which serves every float input"
            )
    return tuple(inputs)


def plan_networks(inputs: Sequence[InputSpec], latent: int, cost: Cost) -> dict[str, NetworkPlan]:
    """Plan a generator network for every picture input; together they stay below the teacher's ``cost``."""
    limit = int(_SHARE_OF_TEACHER * cost.multiplications / len(inputs))
    return {spec.name: plan_network(latent, _picture(spec), limit) for spec in inputs}


def with_networks(cost: Cost, plans: Mapping[str, NetworkPlan]) -> Cost:
    """Add the generators' work to the teacher's, per sample."""
    elements = sum(
        # a map is written by the enlargement, the convolution, its normalisation and its activation
        4 * channels * prod(size)
        for plan in plans.values()
        for channels, size in zip(plan.channels, plan.sizes, strict=True)
    )
    return replace(
        cost,
        multiplications=cost.multiplications + sum(plan.multiplications for plan in plans.values()),
        elements=cost.elements + elements,
    )


def tell_cut(pixels: Mapping[str, Sequence[Tensor]], generator: str, progress: Progress) -> None:
    """Warn where many pixels lie beyond black and white: ``pixels`` are those of each input, not cut yet."""
    for name, parts in pixels.items():
        share = float(torch.cat([(part < 0.0) | (part > 1.0) for part in parts]).float().mean())
        if share > _MANY_CUT:
            progress.warn(
                f"input {name!r}: {share:.0%} of the pixels that {generator} made lay beyond black or white and were "
                "cut: the statistics of the model may belong to another input range, see --mean and --std"
            )


def _picture(spec: InputSpec) -> tuple[int, int, int]:
    _, channels, height, width = spec.batched(1)
    return channels, height, width
