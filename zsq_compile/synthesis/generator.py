"""What every synthesis algorithm promises: the Generator protocol, the set it returns, and the input contract.

Images are made and optimised as pixels in [0, 1], channels in RGB order; the Preprocessing alone knows
what numbers the network expects of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.adversarial.source import Source


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
    contracts: Mapping[str, Preprocessing] = field(default_factory=dict)
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
