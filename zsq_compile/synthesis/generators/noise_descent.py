"""From Gaussian noise to images by Adam, batch by batch: what the published generators of pixels have in common.

They differ in the loss, which each brings along. Departures from the papers, the same for all: pixels are kept in
[0, 1], because no camera gives others, and the step decays by a cosine to a tenth over the iterations there are,
because waiting for plateaus needs hundreds of them.
"""

from collections.abc import Callable, Mapping, Sequence
from math import cos, pi

import torch

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import Effort
from zsq_compile.config.generators import DsgConfig, IntraqConfig, ZeroqConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing, imagenet_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.errors import SynthesisError
from zsq_compile.progress import Progress
from zsq_compile.synthesis.feeding import Feeding, required_layers
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.images.procedural import check_inputs
from zsq_compile.synthesis.preprocessing.find import find_preprocessing

Samples = dict[str, torch.Tensor]
Loss = Callable[[Samples, range], torch.Tensor]
"""(samples of one batch, their numbers in the set) -> loss."""
Prepare = Callable[["Subject", Samples, torch.Generator], Loss]
"""(the network, noise of the whole set, rng) -> the loss that the set is moved by."""

_PIXEL_DEVIATION = 0.225


class Subject(Feeding):
    """The network that images are made for, and what natural pixels are taken to be."""

    def noise(self, count: int, rng: torch.Generator) -> Samples:
        """Draw standard normal numbers, as normalised pixels cut to what pixels can be, or as they are."""
        samples = {}
        for spec in self.inputs:
            values = torch.randn(spec.batched(count), generator=rng, device=rng.device).to(self.teacher.device)
            is_picture = spec.name in self.contracts
            samples[spec.name] = imagenet_preprocessing(values.shape[1]).decode(values) if is_picture else values
        self.project(samples)
        return samples

    def normalised(self, samples: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Give the pictures with natural pixels brought to mean 0 and deviation 1, whatever the network is fed."""
        return [imagenet_preprocessing(samples[name].shape[1]).encode(samples[name]) for name in self.contracts]

    def run(self, samples: Mapping[str, torch.Tensor], outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        """Compute named values from samples."""
        with reduced_precision(self.teacher.device):
            return self.teacher.run(self.fed(samples), tuple(dict.fromkeys(outputs)))


class NoiseDescent:
    """The generator that moves noise; ``prepare`` gives the loss of the one that is named."""

    def __init__(
        self,
        name: str,
        config: ZeroqConfig | DsgConfig | IntraqConfig,
        inputs: Sequence[InputSpec],
        contract: Preprocessing | None,
        progress: Progress,
        prepare: Prepare,
        *,
        effort: Effort,
    ) -> None:
        self._name = name
        self._prepare = prepare
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
            SynthesisError: there is no usable BatchNormalization, the network is too large for the effort, or is not
                what the loss needs.

        """
        seed = rng.initial_seed()
        contracts = find_preprocessing(self._inputs, self._contract, teacher, statistics, rng, self._progress)
        subject = Subject(self._inputs, contracts, required_layers(statistics, self._name), teacher)
        samples = subject.noise(subject.rounded(count), rng)
        config = self._config
        budget = subject.budget(samples, self._effort, iterations=config.iterations, batch_size=config.batch_size)
        if budget.iterations == 0:
            raise SynthesisError(
                f"moving noise by {self._name} would take too long for this network at the effort {self._effort}: take "
                "fewer --samples or a higher --effort, or give iterations under [generator] in a configuration file"
            )
        loss = self._prepare(subject, samples, rng)
        with self._progress.stage("synthesis", budget.iterations * -(-count // budget.batch_size)) as advance:
            moved, curve = descend(
                samples,
                loss,
                subject.project,
                rates={
                    name: config.learning_rate * (_PIXEL_DEVIATION if name in contracts else 1.0) for name in samples
                },
                iterations=budget.iterations,
                batch_size=budget.batch_size,
                advance=advance,
            )
        with torch.no_grad():
            inputs = {name: value[:count].float().cpu() for name, value in subject.fed(moved).items()}
        return SyntheticSet(inputs=inputs, algorithm=self._name, seed=seed, loss_curve=curve, contracts=contracts)


def descend(
    samples: Samples,
    loss: Loss,
    project: Callable[[Samples], None],
    *,
    rates: Mapping[str, float],
    iterations: int,
    batch_size: int,
    advance: Callable[[int], None],
) -> tuple[Samples, tuple[float, ...]]:
    """Move each batch by itself; returns the samples and the mean loss over batches before each step.

    ``rates`` are learning rates by input, ``project`` brings samples back into the legal range, in place, and
    ``advance`` is called with the steps done.
    """
    count = len(next(iter(samples.values())))
    starts = range(0, count, batch_size)
    parts, totals = [], [0.0] * iterations
    for start in starts:
        part = {name: value[start : start + batch_size].clone().requires_grad_() for name, value in samples.items()}
        members = range(start, min(start + batch_size, count))
        optimizer = torch.optim.Adam([{"params": [value], "lr": rates[name]} for name, value in part.items()])
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 0.55 + 0.45 * cos(pi * done / iterations))
        for iteration in range(iterations):
            value = loss(part, members)
            leaves = list(part.values())
            for leaf, gradient in zip(leaves, torch.autograd.grad(value, leaves, allow_unused=True), strict=True):
                leaf.grad = gradient
            optimizer.step()
            decay.step()
            project(part)
            totals[iteration] += float(value.detach())
            advance(1)
        parts.append({name: value.detach() for name, value in part.items()})
    moved = {name: torch.cat([part[name] for part in parts]) for name in samples}
    return moved, tuple(total / len(starts) for total in totals)
