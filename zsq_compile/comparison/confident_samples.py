"""Samples changed until a classifier's best score is high: to calibrate quantizers of outputs, and to find clipping.

Real images reach scores that synthetic ones do not. Ranges from synthetic data need some samples that do (``synth``
adds them), and an estimate for a file of another quantizer has to check whether it clips such scores.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import CompileConfig
from zsq_compile.data.input_spec import fixed_batch
from zsq_compile.data.posterior import Posterior, best_of
from zsq_compile.differentiable.device import choose_device
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
    """Raises a classifier's best score for samples of its inputs; samples of other networks stay as they are.

    Attributes:
        loaded: the network.
        posteriors: what may be the preprocessing, by name of the inputs that have one.
        config: its device, seed and ``confident_share`` are used.
        progress: receives the stage.

    """

    loaded: LoadedModel
    posteriors: Mapping[str, Posterior]
    config: CompileConfig
    progress: Progress

    def add_to(self, samples: Arrays, hypotheses: Tensor | None = None) -> Arrays:
        """Return calibration samples (count, ...), by input name, as ``synth`` writes them.

        A share of them is of high confidence, unless the configuration has a share of its own, and the widest sample
        comes first. For ``hypotheses`` see SyntheticSet.
        """
        given = self.config.confident_share is not None  # then they are in ``samples`` already
        share = 0.0 if given else confident_share(None, compiling=False)
        return self._changed(
            samples,
            lambda inner: WidestFirstGenerator(self._confident(inner, share), self._feed),
            self.posteriors,
            hypotheses,
        )

    def extend(self, inputs: EstimateInputs) -> EstimateInputs:
        """Add high-confidence images to the inputs that files are judged by."""
        families = inputs.families or {}
        best = next((name for name in families if name.startswith(_FAMILY) and not inputs.hypotheses[name]), "")
        family = families.get(best, {})
        count = max(_PROBES // self._feed, 1) * self._feed
        few = {name: values[:count] for name, values in family.items()}
        known = {name: Posterior.certain(one) for name, one in best_of(self.posteriors).items()}
        changed = self._changed(few, lambda inner: self._confident(inner, 1.0), known) if few else few
        return inputs if changed is few else replace(inputs, high_confidence=changed)

    @property
    def _feed(self) -> int:
        return fixed_batch(self.loaded.inputs) or 1

    def _confident(self, inner: Generator, share: float) -> Generator:
        return ConfidentGenerator(inner, self.loaded.inputs, share, self.progress)

    def _changed(
        self,
        samples: Arrays,
        change: Callable[[Generator], Generator],
        posteriors: Mapping[str, Posterior],
        hypotheses: Tensor | None = None,
    ) -> Arrays:
        """Apply a generator that changes samples of another one; returns ``samples`` itself where it changes none."""
        made = SyntheticSet(
            inputs={name: torch.from_numpy(values) for name, values in samples.items()},
            algorithm="given",
            seed=self.config.seed,
            loss_curve=(),
            posteriors=posteriors,
            hypotheses=hypotheses,
        )
        teacher = TorchGraph(self.loaded.model, device=choose_device(self.config.device))
        statistics = BatchNormStatistics(entries=(), refusals=(), layers_total=0, layers_covered=0, degenerate=())
        rng = torch.Generator().manual_seed(self.config.seed)
        moved = change(_Given(made)).synthesize(teacher, statistics, len(next(iter(samples.values()))), rng)
        return samples if moved is made else {name: values.numpy() for name, values in moved.inputs.items()}


class _Given:
    """A generator that returns given samples."""

    def __init__(self, made: SyntheticSet) -> None:
        self._made = made

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize."""
        return self._made
