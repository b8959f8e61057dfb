"""Move samples until the network's BatchNormalization inputs show the moments that the network remembers.

The moments are those of the WHOLE set. Batches take turns: the moments of the others are kept from their last turn and
joined with those of the batch at hand, through which the gradient flows. So the set is matched as one whole at the
memory of one batch, images may differ from each other, and a network with a fixed batch of one is served as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import cos, pi

import torch

from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.differentiable.class_scores import class_logits
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.synthesis.losses import Moments, class_loss, wasserstein
from zsq_compile.synthesis.probe import laid_out, layer_inputs, layer_moments, layer_targets

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
        rates: learning rate by the name of the input.
        project: brings samples back into the legal range, in place.
        classes: class targets, if any.

    """

    layers: Sequence[BatchNorm]
    view: Callable[[Samples, torch.Generator], Mapping[str, torch.Tensor]]
    smooth: Callable[[str, torch.Tensor], torch.Tensor]
    rates: Mapping[str, float]
    project: Callable[[Samples], None]
    classes: Classes | None = None


def match_statistics(
    teacher: TorchGraph,
    objective: Objective,
    samples: Samples,
    rng: torch.Generator,
    *,
    iterations: int,
    batch_size: int,
    enough: float,
    advance: Callable[[int], None],
) -> tuple[Samples, tuple[float, ...]]:
    """Give every batch at most ``iterations`` turns; returns the better samples and the mean loss per iteration.

    Ends early once the mean loss is below ``enough``. Adam with a cosine decay to a tenth of the learning rates.
    ``advance`` is called with the turns that are done, or that an early end saves.
    """
    count = min(len(value) for value in samples.values())
    starts = range(0, count, batch_size)
    parts = [
        {name: value[start : start + batch_size].clone().requires_grad_() for name, value in samples.items()}
        for start in starts
    ]
    matcher = _Matcher(teacher, objective, [min(batch_size, count - start) for start in starts])
    optimizers = [_optimizer(part, objective.rates) for part in parts]
    matcher.remember(parts, rng)
    curve = []
    for iteration in range(iterations):
        slowing = 0.55 + 0.45 * cos(pi * iteration / iterations)
        losses = []
        for index, (part, optimizer) in enumerate(zip(parts, optimizers, strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = slowing * group["full_rate"]
            losses.append(matcher.descend(index, part, optimizer, rng))
            objective.project(part)
            advance(1)
        curve.append(sum(losses) / len(losses))
        if curve[-1] < enough:
            advance((iterations - iteration - 1) * len(parts))
            break
    return {name: torch.cat([part[name].detach() for part in parts]) for name in samples}, tuple(curve)


def _optimizer(part: Samples, rates: Mapping[str, float]) -> torch.optim.Optimizer:
    """Adam with a short memory, as there are few steps, and no floor under gradients that are small by nature."""
    groups = [{"params": [value], "full_rate": rates[name]} for name, value in part.items()]
    return torch.optim.Adam(groups, betas=(0.5, 0.9), eps=1e-12)


class _Matcher:
    """Knows the moments of the whole set, and takes one step on one batch at a time.

    All channels of all layers lie in one row of C numbers. ``_first`` and ``_second`` (batches, C) are the means of x
    and x² of every batch, x taken from the remembered mean on, so that no digits are lost.
    """

    def __init__(self, teacher: TorchGraph, objective: Objective, sizes: Sequence[int]) -> None:
        self._teacher = teacher
        self._objective = objective
        self._shares = torch.tensor(sizes, dtype=torch.float64, device=teacher.device) / sum(sizes)
        self._ends = list(accumulate(sizes))
        taps = layer_inputs(objective.layers)
        self._outputs = taps if objective.classes is None else (*taps, objective.classes.output)
        targets = layer_targets(objective.layers, teacher.device)
        row = _row(targets)
        self._middle = row.mean
        self._target = Moments(mean=torch.zeros_like(row.mean), variance=row.variance)
        weights = [torch.full_like(one.mean, 1.0 / (len(targets) * max(1, len(one.mean)))) for one in targets]
        self._weights = torch.cat(weights) if weights else row.mean
        self._first = torch.zeros(len(sizes), len(row.mean), device=teacher.device)
        self._second = torch.zeros_like(self._first)

    def remember(self, parts: Sequence[Samples], rng: torch.Generator) -> None:
        """Measure every batch before the first has its turn."""
        for index, part in enumerate(parts):
            with torch.no_grad():
                self._first[index], self._second[index] = self._measure(self._run(part, rng))

    def descend(self, index: int, part: Samples, optimizer: torch.optim.Optimizer, rng: torch.Generator) -> float:
        """Take one optimiser step on batch ``index``; returns the loss before it."""
        values = self._run(part, rng)
        loss = self._matching_loss(index, values) + self._class_loss(index, values)
        gradients = torch.autograd.grad(loss, list(part.values()), allow_unused=True)
        for (name, leaf), gradient in zip(part.items(), gradients, strict=True):
            leaf.grad = None if gradient is None else self._objective.smooth(name, gradient)
        optimizer.step()
        return float(loss.detach())

    def _run(self, part: Samples, rng: torch.Generator) -> dict[str, torch.Tensor]:
        with reduced_precision(self._teacher.device):
            return self._teacher.run(laid_out(self._objective.view(part, rng)), self._outputs)

    def _measure(self, values: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        row = _row(layer_moments(self._objective.layers, values))
        first = row.mean - self._middle
        return first, row.variance + first.square()

    def _matching_loss(self, index: int, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if not self._objective.layers:
            return torch.zeros((), device=self._teacher.device)
        fresh = self._measure(values)
        whole = []
        for kept, one in zip((self._first, self._second), fresh, strict=True):
            kept[index] = one.detach()
            rest = (self._shares @ kept.double() - self._shares[index] * kept[index]).float()
            whole.append(rest + float(self._shares[index]) * one)
        together = Moments(mean=whole[0], variance=whole[1] - whole[0].square())
        return (self._weights * wasserstein(together, self._target)).sum()

    def _class_loss(self, index: int, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        classes = self._objective.classes
        if classes is None:
            return torch.zeros((), device=self._teacher.device)
        logits = values[classes.output]
        labels = classes.labels[self._ends[index] - len(logits) : self._ends[index]]
        return classes.weight * class_loss(class_logits(logits), labels)


def _row(moments: Sequence[Moments]) -> Moments:
    """Moments of all channels of all layers, one after the other."""
    if not moments:
        return Moments(mean=torch.zeros(0), variance=torch.zeros(0))
    return Moments(mean=torch.cat([one.mean for one in moments]), variance=torch.cat([one.variance for one in moments]))
