"""A low-pass filter behind any generator: high frequencies are what synthetic images have too much of.

The filter of SynQ (ICLR 2025), applied once to the finished images.
"""

from dataclasses import replace

import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.generator import Generator, SyntheticSet
from zsq_compile.synthesis.images.spectral import gaussian_low_pass


class LowPassGenerator:
    """Another generator's set with its pictures filtered; inputs that are no pictures stay as they are.

    ``deviation`` is that of the Gaussian over frequencies, in cycles per pixel.
    """

    def __init__(self, inner: Generator, deviation: float) -> None:
        self._inner = inner
        self._deviation = deviation

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize."""
        made = self._inner.synthesize(teacher, statistics, count, rng)
        inputs = {
            name: self._filtered(value, made.contracts[name]) if name in made.contracts else value
            for name, value in made.inputs.items()
        }
        return replace(made, inputs=inputs, algorithm=f"{made.algorithm}, low-pass")

    def _filtered(self, values: torch.Tensor, contract: Preprocessing) -> torch.Tensor:
        # A Gaussian cut off at the highest frequency rings a little, so pixels may leave their range.
        return contract.encode(gaussian_low_pass(contract.decode(values), self._deviation).clamp(0.0, 1.0))
