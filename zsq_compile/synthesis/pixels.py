"""The ``pixels`` generator: procedural data, moved until the network's BatchNormalization statistics come out.

In the line of ZeroQ (Cai et al. 2020), Genie-D (Jeon et al. 2023) and DeepInversion (Yin et al. 2020), without a
generator network: the start is already natural, so few iterations are enough, and what was natural about it stays.
"""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from passes.harvest_batchnorm import BatchNorm, BatchNormStatistics
from zsq_compile.config import Effort, PixelsConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import SynthesisError
from zsq_compile.progress import Progress
from zsq_compile.signature import InputSpec
from zsq_compile.synthesis.budget import Budget, plan_budget
from zsq_compile.synthesis.generator import InputContract, SyntheticSet
from zsq_compile.synthesis.matching import Classes, Objective, Samples, match_statistics
from zsq_compile.synthesis.probe import Cost, layer_inputs, measure_cost, runs
from zsq_compile.synthesis.procedural import check_inputs, draw_prior, find_contracts

_REDUCED_ABOVE = 128
_SHIFT = 2


class PixelsGenerator:
    """Images optimised against the BatchNormalization statistics, all of the set as one whole."""

    def __init__(
        self,
        config: PixelsConfig,
        inputs: Sequence[InputSpec],
        contract: InputContract | None,
        progress: Progress,
        *,
        effort: Effort,
    ) -> None:
        self._config = config
        self._inputs = check_inputs(inputs)
        self._contract = contract
        self._progress = progress
        self._effort = effort

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize.

        Raises:
            SynthesisError: there is neither a usable BatchNormalization nor a class target to work towards.

        """
        seed = rng.initial_seed()
        layers = statistics.usable
        contracts = find_contracts(self._inputs, self._contract, teacher, statistics, rng, self._progress)
        work = _Work(self._inputs, contracts, layers, teacher)
        made = work.rounded(count)
        classes = self._classes(work, made, rng)
        if not layers and classes is None:
            raise SynthesisError(
                "the pixels generator needs BatchNormalization statistics, or a classifier and a class_weight above 0; "
                "the model has no such statistics: use --generator prior"
            )
        samples = {spec.name: draw_prior(spec, made, rng).to(teacher.device) for spec in self._inputs}
        budget = work.budget(made, self._config, self._effort)
        samples, curve = self._optimize(work, samples, classes, budget, rng)
        with torch.no_grad():
            fed = {name: value[:count].float().cpu() for name, value in work.fed(samples).items()}
        return SyntheticSet(inputs=fed, algorithm="pixels", seed=seed, loss_curve=curve, contracts=contracts)

    def _optimize(
        self, work: "_Work", samples: Samples, classes: Classes | None, budget: Budget, rng: torch.Generator
    ) -> tuple[Samples, tuple[float, ...]]:
        """Optimise at the reduced size first, where there is one, and carry the change over to the full size."""
        count = len(next(iter(samples.values())))
        turns = [-(-count // size) for size in (budget.coarse_batch, budget.fine_batch)]
        total = budget.coarse * turns[0] + budget.fine * turns[1]
        curve: tuple[float, ...] = ()
        with self._progress.stage("synthesis", total) as advance:
            for iterations, batch_size, reduced in (
                (budget.coarse, budget.coarse_batch, True),
                (budget.fine, budget.fine_batch, False),
            ):
                if iterations == 0:
                    continue
                start = work.reduced(samples) if reduced else samples
                matched, losses = match_statistics(
                    work.teacher,
                    Objective(layers=work.layers, view=work.view, project=work.project, classes=classes),
                    start,
                    rng,
                    iterations=iterations,
                    learning_rate=self._config.learning_rate,
                    batch_size=batch_size,
                    advance=advance,
                )
                samples = work.restored(samples, start, matched) if reduced else matched
                curve += losses
        return samples, curve

    def _classes(self, work: "_Work", count: int, rng: torch.Generator) -> Classes | None:
        """Balanced random labels, if classes are wanted and an output of the network looks like logits."""
        if self._config.class_weight == 0.0:
            return None
        output, classes = work.logits()
        labels = torch.arange(count) % classes
        labels = labels[torch.randperm(count, generator=rng, device=rng.device).cpu()].to(work.teacher.device)
        return Classes(output=output, labels=labels, weight=self._config.class_weight)


class _Work:
    """The network's side of the work: sizes at which it runs, and how pictures become feeds."""

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        contracts: Mapping[str, InputContract],
        layers: Sequence[BatchNorm],
        teacher: TorchGraph,
    ) -> None:
        self.inputs = inputs
        self.contracts = contracts
        self.layers = layers
        self.teacher = teacher
        self._fixed_batch = next((int(spec.shape[0]) for spec in inputs if spec.shape[0] is not None), None)
        self._sizes = {spec.name: _reduced_size(spec) for spec in inputs if spec.is_image}

    def rounded(self, count: int) -> int:
        """``count``, or the next multiple of the batch that the network insists on."""
        return count if self._fixed_batch is None else -(-count // self._fixed_batch) * self._fixed_batch

    def budget(self, count: int, config: PixelsConfig, effort: Effort) -> Budget:
        """Probe the network at its sizes and plan the work."""
        probe = {
            spec.name: torch.zeros(spec.batched(self._fixed_batch or 1), device=self.teacher.device)
            for spec in self.inputs
        }
        taps = layer_inputs(self.layers) or self.teacher.output_names
        full = measure_cost(self.teacher, probe, taps)
        small = self.reduced(probe)
        reduced: Cost | None = None
        if any(small[name].shape != probe[name].shape for name in probe) and config.class_weight == 0.0:
            reduced = measure_cost(self.teacher, small, taps) if runs(self.teacher, small, taps) else None
        batch = self._fixed_batch or config.batch_size
        return plan_budget(count, effort, full, reduced, iterations=config.iterations, batch_size=batch)

    def logits(self) -> tuple[str, int]:
        """Name of the output that looks like class scores, and the number of classes.

        Raises:
            SynthesisError: no output has the shape (N, classes).

        """
        probe = {
            spec.name: torch.zeros(spec.batched(self._fixed_batch or 1), device=self.teacher.device)
            for spec in self.inputs
        }
        with torch.no_grad():
            outputs = self.teacher.run(probe)
        for name, value in outputs.items():
            if (
                value.is_floating_point()
                and value.ndim >= 2
                and value.shape[1] > 1
                and value[0].numel() == value.shape[1]
            ):
                return name, value.shape[1]
        shapes = {name: tuple(value.shape) for name, value in outputs.items()}
        raise SynthesisError(f"class_weight needs an output of shape (N, classes), got {shapes}; set class_weight to 0")

    def view(self, samples: Samples, rng: torch.Generator) -> dict[str, torch.Tensor]:
        """Make feeds of a batch, pictures shifted by up to _SHIFT pixels and mirrored at random, all of them alike."""
        draw = torch.randint(0, 2 * _SHIFT + 1, (3,), generator=rng, device=rng.device).tolist()
        moved = dict(samples)
        for name in self.contracts:
            moved[name] = _shifted(samples[name], draw[0], draw[1], mirrored=draw[2] % 2 == 1)
        return self.fed(moved)

    def fed(self, samples: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Express samples in the network's own units."""
        return {
            name: self.contracts[name].encode(value) if name in self.contracts else value
            for name, value in samples.items()
        }

    def project(self, samples: Samples) -> None:
        """Cut pixels to [0, 1], in place; other inputs are free."""
        with torch.no_grad():
            for name in self.contracts:
                samples[name].clamp_(0.0, 1.0)

    def reduced(self, samples: Samples) -> Samples:
        """Pictures at the reduced size; other inputs as they are."""
        return {
            name: functional.interpolate(value, self._sizes[name], mode="bilinear", antialias=True)
            if name in self._sizes and tuple(value.shape[2:]) != self._sizes[name]
            else value
            for name, value in samples.items()
        }

    def restored(self, samples: Samples, start: Samples, matched: Samples) -> Samples:
        """Full-size samples plus what optimisation changed at the reduced size; the fine detail stays."""
        restored = {}
        for name, value in samples.items():
            if start[name].shape == value.shape:
                restored[name] = matched[name]
                continue
            change = functional.interpolate(matched[name] - start[name], value.shape[2:], mode="bicubic")
            restored[name] = (value + change).clamp(0.0, 1.0)
        return restored


def _reduced_size(spec: InputSpec) -> tuple[int, int]:
    height, width = int(spec.shape[2] or 1), int(spec.shape[3] or 1)
    if max(height, width) <= _REDUCED_ABOVE:
        return height, width
    return max(16, round(height / 32) * 16), max(16, round(width / 32) * 16)


def _shifted(pictures: torch.Tensor, down: int, right: int, *, mirrored: bool) -> torch.Tensor:
    """Pictures moved by up to _SHIFT pixels over a mirrored border; ``down`` and ``right`` from 0 to 2 _SHIFT."""
    height, width = pictures.shape[2:]
    if min(height, width) <= _SHIFT:
        return pictures
    turned = pictures.flip(-1) if mirrored else pictures
    padded = functional.pad(turned, (_SHIFT,) * 4, mode="reflect")
    return padded[..., down : down + height, right : right + width]
