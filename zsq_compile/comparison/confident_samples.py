"""Samples that a classifier is sure of, out of samples that are there: for quantizers that scale outputs, and to test.

Real pictures reach scores that made-up ones do not. Whoever reads ranges off made-up data needs some that do
(``synth`` puts them in), and an estimate for a file that others made has to look whether it takes such scores at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import CompileConfig
from zsq_compile.data.input_spec import fixed_batch
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.device import chosen_device
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Progress
from zsq_compile.stages.calibration_data import confident_share
from zsq_compile.stages.estimate_agreement import EstimateInputs
from zsq_compile.synthesis.filters.confident import ConfidentGenerator
from zsq_compile.synthesis.filters.widest_first import WidestFirstGenerator
from zsq_compile.synthesis.generator import Generator, SyntheticSet

_PROBES = 16
_FAMILY = "prior"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConfidentSamples:
    """Makes a classifier sure of samples of its inputs; samples of other networks stay as they are.

    Attributes:
        loaded: the network.
        contracts: what numbers image inputs expect, by name.
        config: its device, seed and ``confident_share`` are used.
        progress: is told of the stage.

    """

    loaded: LoadedModel
    contracts: Mapping[str, Preprocessing]
    config: CompileConfig
    progress: Progress

    def among(self, samples: Arrays) -> Arrays:
        """Make of calibration samples (count, ...), by input name, what ``synth`` hands on.

        That is a share of sure ones, unless the configuration has a share of its own, and the widest sample in front.
        """
        given = self.config.confident_share is not None  # then they are among them already
        share = 0.0 if given else confident_share(self.config, compiling=False)
        return self._changed(samples, lambda inner: WidestFirstGenerator(self._confident(inner, share), self._feed))

    def probing(self, expected: EstimateInputs) -> EstimateInputs:
        """Add pictures that the network is sure of to what files are judged by."""
        family = (expected.families or {}).get(_FAMILY, {})
        count = max(_PROBES // self._feed, 1) * self._feed
        few = {name: values[:count] for name, values in family.items()}
        sure = self._changed(few, lambda inner: self._confident(inner, 1.0)) if few else few
        return expected if sure is few else replace(expected, high_confidence=sure)

    @property
    def _feed(self) -> int:
        return fixed_batch(self.loaded.inputs) or 1

    def _confident(self, inner: Generator, share: float) -> Generator:
        return ConfidentGenerator(inner, self.loaded.inputs, share, self.progress)

    def _changed(self, samples: Arrays, change: Callable[[Generator], Generator]) -> Arrays:
        """Hand samples through a generator that changes those of another one; the very same where it leaves them."""
        made = SyntheticSet(
            inputs={name: torch.from_numpy(values) for name, values in samples.items()},
            algorithm="given",
            seed=self.config.seed,
            loss_curve=(),
            contracts=self.contracts,
        )
        teacher = TorchGraph(self.loaded.model, device=chosen_device(self.config.device))
        statistics = BatchNormStatistics(entries=(), refusals=(), layers_total=0, layers_covered=0, degenerate=())
        rng = torch.Generator().manual_seed(self.config.seed)
        moved = change(_Given(made)).synthesize(teacher, statistics, len(next(iter(samples.values()))), rng)
        return samples if moved is made else {name: values.numpy() for name, values in moved.inputs.items()}


class _Given:
    """A generator that hands out what it was given."""

    def __init__(self, made: SyntheticSet) -> None:
        self._made = made

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize."""
        return self._made
