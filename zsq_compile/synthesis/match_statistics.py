"""Optimise samples until the network's BatchNormalization inputs show the moments that the network remembers.

The moments are those of the WHOLE set. Batches take turns: the moments of the others are kept from their last turn and
joined with those of the batch at hand, through which the gradient flows. So the set is matched as one whole at the
memory of one batch, images may differ from each other, and a network with a fixed batch of one is served as well.

Images are mirrored at random in every run, and moved along gradients that are smoothed to the 1/f spectrum of natural
images, as those differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import cos, pi

import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.differentiable.class_scores import class_logits
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.synthesis.budget import Budget
from zsq_compile.synthesis.channel_moments import ActivationMoments
from zsq_compile.synthesis.images.spectral import power_law_filter
from zsq_compile.synthesis.losses import class_loss, wasserstein
from zsq_compile.synthesis.probe import layer_inputs, layer_moments, layer_targets, to_channels_last
from zsq_compile.synthesis.task import SynthesisTask, Tensors

# Moves along a smoothed gradient are the same all over a neighbourhood: one a seventh as large shows as much as a move
# of independent pixels, which is what the configured rate is meant for.
_SMOOTH_RATE = 0.15


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassTargets:
    """Class that each sample shall belong to: (count,) labels, the output with class scores, and the loss's weight."""

    output: str
    labels: Tensor
    weight: float


def match_statistics(
    task: SynthesisTask,
    samples: Tensors,
    rng: torch.Generator,
    *,
    teacher: TorchGraph,
    layers: Sequence[BatchNorm],
    classes: ClassTargets | None,
    learning_rate: float,
    budget: Budget,
    enough: float,
    stage: str = "synthesis",
) -> tuple[Tensors, tuple[float, ...]]:
    """Give every batch at most ``budget.iterations`` steps of Adam with cosine decay to a tenth of the rate.

    Args:
        task: says which inputs are images, and how they are encoded.
        samples: to start from; images as pixels.
        rng: of the mirroring.
        teacher: the task's, or one that is equivalent.
        layers: of this teacher, whose statistics are matched; may be empty if there are classes.
        classes: class targets, if any.
        learning_rate: in pixels, and in the units of other inputs.
        budget: iterations over the set, and batch size.
        enough: mean loss below which to stop early.
        stage: name under which the progress is reported.

    Returns:
        The optimised samples, and the mean loss of each iteration; the samples as they are where nothing is free.

    """
    if not task.free:
        return samples, ()
    count = min(len(value) for value in samples.values())
    sizes = [min(budget.batch_size, count - start) for start in range(0, count, budget.batch_size)]
    batches = [
        {name: value[end - size : end].clone().requires_grad_(name in task.free) for name, value in samples.items()}
        for end, size in zip(accumulate(sizes), sizes, strict=True)
    ]
    matcher = _Matcher(task, teacher, layers, classes, sizes)
    optimizers = [_optimizer(task, batch, learning_rate) for batch in batches]
    matcher.measure_all(batches, rng)
    curve = []
    with task.progress.stage(stage, budget.iterations * len(batches)) as advance:
        for iteration in range(budget.iterations):
            decay = 0.55 + 0.45 * cos(pi * iteration / budget.iterations)
            losses = []
            for index, (batch, optimizer) in enumerate(zip(batches, optimizers, strict=True)):
                for group in optimizer.param_groups:
                    group["lr"] = decay * group["full_rate"]
                losses.append(matcher.step(index, batch, optimizer, rng))
                task.clamp_pixels(batch)
                advance(1)
            curve.append(sum(losses) / len(losses))
            if curve[-1] < enough:
                advance((budget.iterations - iteration - 1) * len(batches))
                break
    return {name: torch.cat([batch[name].detach() for batch in batches]) for name in samples}, tuple(curve)


def _optimizer(task: SynthesisTask, batch: Tensors, learning_rate: float) -> torch.optim.Optimizer:
    """Adam with a short memory, as there are few steps, and no floor under gradients that are small by nature."""
    groups = [
        {"params": [value], "full_rate": learning_rate * (_SMOOTH_RATE if name in task.pictures else 1.0)}
        for name, value in batch.items()
        if name in task.free
    ]
    return torch.optim.Adam(groups, betas=(0.5, 0.9), eps=1e-12)


class _Matcher:
    """Knows the moments of the whole set, and takes one step on one batch at a time.

    All channels of all layers are concatenated to C numbers. ``_first`` and ``_second`` (batches, C) are the means of x
    and x² of every batch, x taken relative to the remembered mean, so that no digits are lost.
    """

    def __init__(
        self,
        task: SynthesisTask,
        teacher: TorchGraph,
        layers: Sequence[BatchNorm],
        classes: ClassTargets | None,
        sizes: Sequence[int],
    ) -> None:
        self._task = task
        self._teacher = teacher
        self._layers = layers
        self._classes = classes
        self._shares = torch.tensor(sizes, dtype=torch.float64, device=teacher.device) / sum(sizes)
        self._ends = list(accumulate(sizes))
        taps = layer_inputs(layers)
        self._outputs = taps if classes is None else (*taps, classes.output)
        targets = layer_targets(layers, teacher.device)
        row = _concatenate(targets)
        self._middle = row.mean
        self._target = ActivationMoments(mean=torch.zeros_like(row.mean), variance=row.variance)
        weights = [torch.full_like(one.mean, 1.0 / (len(targets) * max(1, len(one.mean)))) for one in targets]
        self._weights = torch.cat(weights) if weights else row.mean
        self._first = torch.zeros(len(sizes), len(row.mean), device=teacher.device)
        self._second = torch.zeros_like(self._first)

    def measure_all(self, batches: Sequence[Tensors], rng: torch.Generator) -> None:
        """Measure every batch before the first step."""
        for index, batch in enumerate(batches):
            with torch.no_grad():
                self._first[index], self._second[index] = self._measure(self._run(batch, rng))

    def step(self, index: int, batch: Tensors, optimizer: torch.optim.Optimizer, rng: torch.Generator) -> float:
        """Take one optimiser step on batch ``index``; returns the loss before it."""
        values = self._run(batch, rng)
        loss = self._matching_loss(index, values) + self._class_loss(index, values)
        free = {name: leaf for name, leaf in batch.items() if leaf.requires_grad}
        gradients = torch.autograd.grad(loss, list(free.values()), allow_unused=True)
        for (name, leaf), gradient in zip(free.items(), gradients, strict=True):
            is_image = gradient is not None and name in self._task.pictures
            leaf.grad = power_law_filter(gradient) if is_image else gradient
        optimizer.step()
        return float(loss.detach())

    def _run(self, batch: Tensors, rng: torch.Generator) -> Tensors:
        """Compute the outputs of a batch, its images mirrored every other time, at random."""
        images = self._task.pictures
        mirrored = bool(torch.rand((), generator=rng, device=rng.device) < 0.5)
        view = {name: value.flip(-1) if mirrored and name in images else value for name, value in batch.items()}
        with reduced_precision(self._teacher.device):
            return self._teacher.run(to_channels_last(self._task.encode(view)), self._outputs)

    def _measure(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        row = _concatenate(layer_moments(self._layers, values))
        first = row.mean - self._middle
        return first, row.variance + first.square()

    def _matching_loss(self, index: int, values: Mapping[str, Tensor]) -> Tensor:
        if not self._layers:
            return torch.zeros((), device=self._teacher.device)
        fresh = self._measure(values)
        whole = []
        for kept, one in zip((self._first, self._second), fresh, strict=True):
            kept[index] = one.detach()
            rest = (self._shares @ kept.double() - self._shares[index] * kept[index]).float()
            whole.append(rest + float(self._shares[index]) * one)
        together = ActivationMoments(mean=whole[0], variance=whole[1] - whole[0].square())
        return (self._weights * wasserstein(together, self._target)).sum()

    def _class_loss(self, index: int, values: Mapping[str, Tensor]) -> Tensor:
        classes = self._classes
        if classes is None:
            return torch.zeros((), device=self._teacher.device)
        logits = values[classes.output]
        labels = classes.labels[self._ends[index] - len(logits) : self._ends[index]]
        return classes.weight * class_loss(class_logits(logits), labels)


def _concatenate(moments: Sequence[ActivationMoments]) -> ActivationMoments:
    """Moments of all channels of all layers, one after the other."""
    if not moments:
        return ActivationMoments(mean=torch.zeros(0), variance=torch.zeros(0))
    means, variances = zip(*moments, strict=True)
    return ActivationMoments(mean=torch.cat(means), variance=torch.cat(variances))
