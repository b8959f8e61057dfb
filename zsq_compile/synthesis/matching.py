"""Move samples until the network's BatchNormalization inputs show the moments that the network remembers.

The moments are those of the WHOLE set. Batches take turns: the moments of the others are kept from their last turn and
joined with those of the batch at hand, through which the gradient flows. So the set is matched as one whole at the
memory of one batch, images may differ from each other, and a network with a fixed batch of one is served as well.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from math import cos, pi
from pathlib import Path

import torch

from passes.harvest_batchnorm import BatchNorm
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.losses import Moments, class_loss, joined, statistics_loss
from zsq_compile.synthesis.probe import layer_inputs, layer_moments, layer_targets

Samples = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Classes:
    """What class each sample shall belong to."""

    output: str
    labels: torch.Tensor
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Objective:
    """What is matched, and how samples become feeds.

    Attributes:
        layers: whose statistics are matched; may be empty if ``classes`` is not None.
        view: (samples of one batch, rng) -> feeds; differentiable, may shift and flip at random.
        smooth: (name of an input, gradient of a batch) -> direction of the move.
        project: brings samples back into the legal range, in place.
        classes: class targets, if any.

    """

    layers: Sequence[BatchNorm]
    view: Callable[[Samples, torch.Generator], Mapping[str, torch.Tensor]]
    smooth: Callable[[str, torch.Tensor], torch.Tensor]
    project: Callable[[Samples], None]
    classes: Classes | None = None


def match_statistics(
    teacher: TorchGraph,
    objective: Objective,
    samples: Samples,
    rng: torch.Generator,
    *,
    iterations: int,
    learning_rate: float,
    batch_size: int,
    enough: float,
    advance: Callable[[int], None],
) -> tuple[Samples, tuple[float, ...]]:
    """Give every batch at most ``iterations`` turns; returns the better samples and the mean loss per iteration.

    Ends early once the mean loss is below ``enough``. Adam with a cosine decay to a tenth of the learning rate.
    ``advance`` is called with the turns that are done, or that an early end saves.
    """
    count = min(len(value) for value in samples.values())
    parts = [
        {name: value[start : start + batch_size].clone().requires_grad_() for name, value in samples.items()}
        for start in range(0, count, batch_size)
    ]
    sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
    optimizers = [torch.optim.Adam(part.values(), lr=learning_rate, betas=(0.5, 0.9), eps=1e-12) for part in parts]
    matcher = _Matcher(teacher, objective, sizes)
    for index, part in enumerate(parts):
        matcher.remember(index, part, rng)
    curve = []
    for iteration in range(iterations):
        rate = learning_rate * (0.55 + 0.45 * cos(pi * iteration / iterations))
        losses = []
        for index, (part, optimizer) in enumerate(zip(parts, optimizers, strict=True)):
            optimizer.param_groups[0]["lr"] = rate
            losses.append(matcher.descend(index, part, optimizer, rng))
            objective.project(part)
            advance(1)
        curve.append(sum(losses) / len(losses))
        if curve[-1] < enough:
            advance((iterations - iteration - 1) * len(parts))
            break
    matched = {name: torch.cat([part[name].detach() for part in parts]) for name in samples}
    return matched, tuple(curve)


class _Matcher:
    """Keeps the moments of every batch, and takes one step on one batch at a time."""

    def __init__(self, teacher: TorchGraph, objective: Objective, sizes: Sequence[int]) -> None:
        self._teacher = teacher
        self._objective = objective
        self._sizes = sizes
        self._targets = layer_targets(objective.layers, teacher.device)
        self._kept: list[list[Moments]] = [[] for _ in sizes]
        taps = layer_inputs(objective.layers)
        self._outputs = taps if objective.classes is None else (*taps, objective.classes.output)

    def remember(self, index: int, part: Samples, rng: torch.Generator) -> None:
        """Measure a batch that has not had its turn yet."""
        with torch.no_grad(), reduced_precision(self._teacher.device):
            values = self._teacher.run(self._objective.view(part, rng), self._outputs)
        self._kept[index] = layer_moments(self._objective.layers, values)

    def descend(self, index: int, part: Samples, optimizer: torch.optim.Optimizer, rng: torch.Generator) -> float:
        """One optimiser step on batch ``index``; returns the loss before it."""
        with reduced_precision(self._teacher.device):
            values = self._teacher.run(self._objective.view(part, rng), self._outputs)
        loss = self._loss(index, values)
        gradients = torch.autograd.grad(loss, list(part.values()), allow_unused=True)
        for (name, leaf), gradient in zip(part.items(), gradients, strict=True):
            leaf.grad = None if gradient is None else self._objective.smooth(name, gradient)
        optimizer.step()
        return float(loss.detach())

    def _loss(self, index: int, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        total = torch.zeros((), device=self._teacher.device)
        if self._targets:
            fresh = layer_moments(self._objective.layers, values)
            together = [
                joined(
                    [fresh[layer] if other == index else self._kept[other][layer] for other in range(len(self._sizes))],
                    self._sizes,
                )
                for layer in range(len(fresh))
            ]
            total = total + statistics_loss(together, self._targets)
            self._kept[index] = [Moments(mean=one.mean.detach(), variance=one.variance.detach()) for one in fresh]
        classes = self._objective.classes
        if classes is not None:
            start = sum(self._sizes[:index])
            labels = classes.labels[start : start + self._sizes[index]]
            total = total + classes.weight * class_loss(values[classes.output], labels)
        return total


def reduced_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast where the processor multiplies bfloat16 natively; else nothing."""
    if device.type == "cpu" and not _multiplies_bfloat16():
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@cache
def _multiplies_bfloat16() -> bool:
    """Tell by the flags that Linux prints; elsewhere float32 is the safe answer."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
