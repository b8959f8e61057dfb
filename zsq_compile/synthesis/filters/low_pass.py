"""A low-pass filter behind any generator: synthetic images have too much of high frequencies.

The filter of SynQ (ICLR 2025), applied once to the finished images.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.generator import Generator, SyntheticSet
from zsq_compile.synthesis.images.procedural import as_input
from zsq_compile.synthesis.images.spectral import gaussian_low_pass


class LowPassGenerator:
    """Another generator's set with its images filtered; other inputs stay as they are.

    ``deviation`` is that of the Gaussian over frequencies, in cycles per pixel.
    """

    def __init__(self, inner: Generator, inputs: Sequence[InputSpec], deviation: float) -> None:
        self._inner = inner
        self._inputs = inputs
        self._deviation = deviation

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator."""
        return self._inner.synthesize(teacher, statistics, count, rng).with_each(self._filtered)

    def _filtered(self, made: SyntheticSet) -> SyntheticSet:
        inputs = {
            spec.name: self._filter(made.inputs[spec.name], spec, made.preprocessing[spec.name])
            if spec.is_image
            else made.inputs[spec.name]
            for spec in self._inputs
        }
        return replace(made, inputs=inputs, algorithm=f"{made.algorithm}, low-pass")

    def _filter(self, values: Tensor, spec: InputSpec, preprocessing: Preprocessing) -> Tensor:
        # A Gaussian cut off at the highest frequency rings a little, so pixels may leave their range.
        pixels = gaussian_low_pass(preprocessing.decode(values), self._deviation)
        return as_input(spec, preprocessing.encode(pixels.clamp(0.0, 1.0)))
