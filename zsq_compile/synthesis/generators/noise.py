"""The ``noise`` generator: random numbers in the input range, the baseline that every other has to beat."""

from collections.abc import Sequence

import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import NoiseConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.images.procedural import check_inputs
from zsq_compile.synthesis.preprocessing.find import find_preprocessing


class NoiseGenerator:
    """Independent numbers per pixel; images stay inside what pixels can be.

    ``normal`` draws pixels around the middle of their range with a quarter of it as standard deviation, ``uniform``
    evenly. Other inputs get standard normal numbers, or uniform ones in [-1, 1].
    """

    def __init__(
        self, config: NoiseConfig, inputs: Sequence[InputSpec], contract: Preprocessing | None, progress: Progress
    ) -> None:
        self._config = config
        self._inputs = check_inputs(inputs)
        self._contract = contract
        self._progress = progress

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize."""
        seed = rng.initial_seed()
        contracts = find_preprocessing(self._inputs, self._contract, teacher, statistics, rng, self._progress)
        inputs = {}
        for spec in self._inputs:
            values = self._draw(spec.batched(count), rng)
            if spec.name in contracts:
                values = contracts[spec.name].encode(
                    (0.5 + 0.25 * values).clamp(0.0, 1.0) if self._normal else 0.5 + 0.5 * values
                )
            inputs[spec.name] = values.float().cpu()
        return SyntheticSet(inputs=inputs, algorithm="noise", seed=seed, loss_curve=(), contracts=contracts)

    @property
    def _normal(self) -> bool:
        return self._config.distribution == "normal"

    def _draw(self, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
        if self._normal:
            return torch.randn(shape, generator=rng, device=rng.device)
        return 2.0 * torch.rand(shape, generator=rng, device=rng.device) - 1.0
