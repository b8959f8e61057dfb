"""A network that makes images of latent vectors, sized to the image and to a limit of work.

    latent -> Linear -> small map -> BN -> (nearest x2 -> Conv3x3 -> BN -> LeakyReLU) for every stage but the last
           -> nearest x2 -> Conv3x3 -> Tanh -> BN without scale and shift

The generator of Genie (Jeon, Lee, Kim, CVPR 2023), which goes back to DAFL and GDFQ, has two stages for every size,
and so a first layer of 100 million weights at 224 pixels. Here the map starts at 8 pixels a side or less, and channels
halve from stage to stage: a stage has four times the pixels of the one before it, and about the same work.

All normalisation uses the moments of the batch at hand, never a running mean. The last one gives every channel mean 0
and standard deviation 1 over the batch, as normalised images have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

_LARGEST_START = 8
_SMALLEST_HALVED = 4
_FEWEST_STAGES = 2
_NARROWEST = 8
_WIDTHS = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16, _NARROWEST)
_LEAK = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPlan:
    """Sizes of a generator network.

    Attributes:
        latent: length of a latent vector.
        sizes: (height, width) of the feature maps, from the first one, which the Linear makes, to the image.
        channels: of the same maps; the last number is that of the image.

    """

    latent: int
    sizes: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]

    @property
    def multiplications(self) -> int:
        """Work on one image, forward only."""
        first = self.latent * self.channels[0] * prod(self.sizes[0])
        return first + sum(
            9 * before * after * prod(size)
            for (before, after), size in zip(pairwise(self.channels), self.sizes[1:], strict=True)
        )


def plan_network(latent: int, image: tuple[int, int, int], limit: int) -> NetworkPlan:
    """Plan the widest network for a (channels, height, width) image whose multiplications stay within a limit.

    The narrowest has 8 channels, whatever the limit is.
    """
    channels, height, width = image
    sizes = _sizes(height, width)
    plans = (
        NetworkPlan(latent=latent, sizes=sizes, channels=(*_widths(widest, len(sizes) - 1), channels))
        for widest in _WIDTHS
    )
    fitting = (plan for plan in plans if plan.multiplications <= limit or plan.channels[0] == _NARROWEST)
    return next(fitting)


def batch_normalization(channels: int) -> nn.Module:
    """Normalise by the moments of the batch, then scale and shift by learned numbers per channel."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


class GeneratorNetwork(nn.Module):
    """(N, latent) -> (N, channels, height, width), every channel with mean 0 and deviation 1 over the batch.

    Attributes:
        plan: its sizes.

    ``normalization`` makes the layer that follows the map and every inner convolution, from its number of channels: a
    conditional one goes here, and gets the labels in every pass. Weights start uniform within
    1 / sqrt(number of inputs), all from ``rng``.

    """

    def __init__(
        self,
        plan: NetworkPlan,
        rng: torch.Generator,
        *,
        normalization: Callable[[int], nn.Module] = batch_normalization,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.first = nn.Linear(plan.latent, plan.channels[0] * prod(plan.sizes[0]), device="meta")
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, device="meta") for before, after in pairwise(plan.channels)
        )
        # torch would draw the weights from its global generator
        for layer in (self.first, *self.convolutions):
            _draw(layer.to_empty(device="cpu"), rng)
        self.normalizations = nn.ModuleList(normalization(count) for count in plan.channels[:-1])
        self.last = nn.BatchNorm2d(plan.channels[-1], affine=False, track_running_stats=False)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Make one image of each latent vector; float32 also where the inner layers run in less.

        ``labels`` (N,), where given, go to every normalisation beside the values.
        """
        values: Tensor = self.first(latents)
        values = values.view(-1, self.plan.channels[0], *self.plan.sizes[0])
        # in this order an enlargement is a copy of whole rows, and nothing behind it has to be turned around
        values = values.contiguous(memory_format=torch.channels_last)
        steps = zip(self.convolutions, self.normalizations, self.plan.sizes[1:], strict=True)
        for index, (convolution, normalization, size) in enumerate(steps):
            values = normalization(values) if labels is None else normalization(values, labels)
            if index:
                values = functional.leaky_relu(values, _LEAK)
            values = convolution(_enlarge(values, size))
        image: Tensor = self.last(torch.tanh(values.float()))
        return image


def _sizes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Halve each side, odd ones rounded up, until none is above the largest start; at least for two stages."""
    sizes = [(height, width)]
    while max(sizes[-1]) > _LARGEST_START or len(sizes) <= _FEWEST_STAGES:
        least = _SMALLEST_HALVED if len(sizes) <= _FEWEST_STAGES else _LARGEST_START + 1
        tall, wide = (-(-side // 2) if side >= least else side for side in sizes[-1])
        sizes.append((tall, wide))
    return tuple(reversed(sizes))


def _widths(widest: int, count: int) -> tuple[int, ...]:
    return tuple(max(widest >> index, _NARROWEST) for index in range(count))


def _enlarge(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat every value along the axes that grow; the last one once only where the size is odd."""
    factors = [2.0 if wanted > side else 1.0 for wanted, side in zip(size, values.shape[2:], strict=True)]
    large = functional.interpolate(values, scale_factor=factors, mode="nearest")
    return large[:, :, : size[0], : size[1]]


def _draw(layer: nn.Module, rng: torch.Generator) -> None:
    """Fill weight and bias from ``rng`` alone, in the distribution that torch would draw them from."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    reach = 1.0 / sqrt(weight[0].numel())
    with torch.no_grad():
        for parameter in (weight, bias):
            drawn = torch.rand(parameter.shape, generator=rng, device=rng.device)
            parameter.copy_(reach * (2.0 * drawn - 1.0))
