"""A low-pass filter behind any generator: synthetic images have too much of high frequencies.

The filter of SynQ (ICLR 2025), applied once to the finished images.
"""

from dataclasses import replace

import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.generator import Generator, SyntheticSet
from zsq_compile.synthesis.images.spectral import gaussian_low_pass


class LowPassGenerator:
    """Another generator's set with its images filtered; other inputs stay as they are.

    ``deviation`` is that of the Gaussian over frequencies, in cycles per pixel.
    """

    def __init__(self, inner: Generator, deviation: float) -> None:
        self._inner = inner
        self._deviation = deviation

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator."""
        made = self._inner.synthesize(teacher, statistics, count, rng)
        inputs = {
            name: self._filter(value, made.preprocessing[name]) if name in made.preprocessing else value
            for name, value in made.inputs.items()
        }
        return replace(made, inputs=inputs, algorithm=f"{made.algorithm}, low-pass")

    def _filter(self, values: Tensor, preprocessing: Preprocessing) -> Tensor:
        # A Gaussian cut off at the highest frequency rings a little, so pixels may leave their range.
        pixels = gaussian_low_pass(preprocessing.decode(values), self._deviation)
        return preprocessing.encode(pixels.clamp(0.0, 1.0))
