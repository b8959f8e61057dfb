"""The ``pixels`` generator: procedural data, moved until the network's BatchNormalization statistics come out.

In the line of ZeroQ (Cai et al. 2020), Genie-D (Jeon et al. 2023) and DeepInversion (Yin et al. 2020), without a
generator network: the start is already natural, so few iterations are enough, and what was natural about it stays.
"""

from collections.abc import Mapping, Sequence

import torch

from passes.harvest_batchnorm import BatchNorm, BatchNormStatistics
from zsq_compile.config import Effort, PixelsConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import SynthesisError
from zsq_compile.progress import Progress
from zsq_compile.signature import InputSpec
from zsq_compile.synthesis.budget import Budget, plan_budget
from zsq_compile.synthesis.generator import InputContract, SyntheticSet
from zsq_compile.synthesis.matching import Classes, Objective, Samples, match_statistics
from zsq_compile.synthesis.probe import layer_inputs, measure_cost
from zsq_compile.synthesis.procedural import check_inputs, draw_prior, find_contracts
from zsq_compile.synthesis.spectral import power_law_filter

# Moves of the smoothed gradient are the same all over a neighbourhood: one a seventh as large shows as much as a move
# of independent pixels, which is what the configured rate is meant for.
_SMOOTH_RATE = 0.15
# The training data themselves, in sets of a thousand, lie 0.01 to 0.04 away from the running statistics. Moving
# pictures closer than that makes them worse, as any fit beyond the noise does.
_NATURAL_DISTANCE = 0.018


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
        samples, curve = self._optimize(work, samples, classes, rng)
        with torch.no_grad():
            inputs = {name: value[:count].float().cpu() for name, value in work.fed(samples).items()}
        return SyntheticSet(inputs=inputs, algorithm="pixels", seed=seed, loss_curve=curve, contracts=contracts)

    def _optimize(
        self, work: "_Work", samples: Samples, classes: Classes | None, rng: torch.Generator
    ) -> tuple[Samples, tuple[float, ...]]:
        budget = work.budget(samples, self._config, self._effort)
        if budget.iterations == 0:
            self._progress.warn(
                "the network is too large to optimise data for it at this effort: procedural data is used as it is"
            )
            return samples, ()
        count = len(next(iter(samples.values())))
        objective = Objective(
            layers=work.layers,
            view=work.view,
            smooth=work.smooth,
            rates=work.rates(self._config.learning_rate),
            project=work.project,
            classes=classes,
        )
        with self._progress.stage("synthesis", budget.iterations * -(-count // budget.batch_size)) as advance:
            return match_statistics(
                work.teacher,
                objective,
                samples,
                rng,
                iterations=budget.iterations,
                batch_size=budget.batch_size,
                enough=_NATURAL_DISTANCE if classes is None else 0.0,
                advance=advance,
            )

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

    def rounded(self, count: int) -> int:
        """``count``, or the next multiple of the batch that the network insists on."""
        return count if self._fixed_batch is None else -(-count // self._fixed_batch) * self._fixed_batch

    def budget(self, samples: Samples, config: PixelsConfig, effort: Effort) -> Budget:
        """Measure the network on one sample and plan the work on all."""
        one = {name: value[: self._fixed_batch or 1] for name, value in samples.items()}
        cost = measure_cost(self.teacher, self.fed(one), layer_inputs(self.layers) or self.teacher.output_names)
        batch = self._fixed_batch or config.batch_size
        count = len(next(iter(samples.values())))
        return plan_budget(count, effort, cost, iterations=config.iterations, batch_size=batch)

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
        """Make feeds of a batch, its pictures mirrored every other time, at random."""
        mirrored = bool(torch.rand((), generator=rng, device=rng.device) < 0.5)
        return self.fed(
            {name: value.flip(-1) if mirrored and name in self.contracts else value for name, value in samples.items()}
        )

    def fed(self, samples: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Express samples in the network's own units."""
        return {
            name: self.contracts[name].encode(value) if name in self.contracts else value
            for name, value in samples.items()
        }

    def rates(self, learning_rate: float) -> dict[str, float]:
        """Learning rate by input."""
        return {
            spec.name: learning_rate * (_SMOOTH_RATE if spec.name in self.contracts else 1.0) for spec in self.inputs
        }

    def project(self, samples: Samples) -> None:
        """Cut pixels to [0, 1], in place; other inputs are free."""
        with torch.no_grad():
            for name in self.contracts:
                samples[name].clamp_(0.0, 1.0)

    def smooth(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """Turn the gradient of a picture into a move with the spectrum of pictures, 1/f; others stay."""
        return power_law_filter(gradient) if name in self.contracts else gradient
