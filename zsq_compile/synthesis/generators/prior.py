"""The ``prior`` generator, and the start of every other: each input gets procedural data of its own kind.

Images (float NCHW with 1 or 3 channels) get procedural pictures under the input's contract, every other float input
gets signals of its shape.
"""

from collections.abc import Sequence

import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.images.procedural import check_inputs, draw_samples
from zsq_compile.synthesis.preprocessing.find import find_preprocessing


class PriorGenerator:
    """Procedural data as it is; needs no statistics beyond those that tell the input contract."""

    def __init__(self, inputs: Sequence[InputSpec], contract: Preprocessing | None, progress: Progress) -> None:
        self._inputs = check_inputs(inputs)
        self._contract = contract
        self._progress = progress

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize."""
        seed = rng.initial_seed()
        contracts = find_preprocessing(self._inputs, self._contract, teacher, statistics, rng, self._progress)
        drawn = {spec.name: draw_samples(spec, count, rng) for spec in self._inputs}
        inputs = {
            name: (contracts[name].encode(values) if name in contracts else values).float().cpu()
            for name, values in drawn.items()
        }
        return SyntheticSet(inputs=inputs, algorithm="prior", seed=seed, loss_curve=(), contracts=contracts)
