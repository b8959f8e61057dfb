"""What every synthesis algorithm promises: the Generator protocol, the set it returns, and the input contract.

Images are made and optimised as pixels in [0, 1], channels in RGB order; the InputContract alone knows
what numbers the network expects of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.adversarial.source import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class InputContract:
    """What numbers the network expects of an image with pixels in [0, 1].

    Attributes:
        name: "unit", "symmetric", "imagenet", "byte", "byte_bgr", or "given".
        mean: per channel, in RGB order, in pixel units.
        std: per channel, in RGB order; network input = (pixel - mean) / std, then the channel order.
        channel_order: "bgr" reverses the three channels after scaling.
        inferred: True if BatchNormalization statistics decided, False if assumed or given.
        margin: loss of the runner-up / loss of the best (>= 1); None when assumed or given.
        reason: what decided, in words; empty while nothing has.

    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: Literal["rgb", "bgr", "gray"]
    inferred: bool
    margin: float | None
    reason: str = ""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) pixels in [0, 1] -> what the network is fed; differentiable."""
        mean, std = (_per_channel(values, pixels) for values in (self.mean, self.std))
        scaled = (pixels - mean) / std
        return scaled.flip(1) if self.channel_order == "bgr" else scaled

    def decode(self, values: torch.Tensor) -> torch.Tensor:
        """Inverse of encode: network input -> (N, C, H, W) pixels."""
        ordered = values.flip(1) if self.channel_order == "bgr" else values
        mean, std = (_per_channel(numbers, values) for numbers in (self.mean, self.std))
        return ordered * std + mean


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SyntheticSet:
    """Calibration data in the network's own units.

    Attributes:
        inputs: float32 CPU tensors of (count, ...) by the name of the network's input.
        algorithm: name of the generator that made them.
        seed: the seed of the ``torch.Generator`` it was given.
        loss_curve: loss per iteration, averaged over batches; empty for generators that optimise nothing.
        contracts: the input contract that each image input was made for, by its name.
        labels: (count,) class that each sample was to show; None for generators that are asked for none.
        source: what made the samples and can go on learning; None for generators that learn no network for all.

    """

    inputs: Mapping[str, torch.Tensor]
    algorithm: str
    seed: int
    loss_curve: tuple[float, ...]
    contracts: Mapping[str, InputContract] = field(default_factory=dict)
    labels: torch.Tensor | None = None
    source: Source | None = None


class Generator(Protocol):
    """Makes calibration data for one network."""

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """Return ``count`` samples. The same ``rng`` state on the same machine gives the same bytes.

        Raises:
            SynthesisError: an input cannot be synthesized.

        """


def _per_channel(values: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
