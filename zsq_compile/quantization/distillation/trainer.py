"""The training loop of distillation: a loss, a judge, and a state that can be put away between two steps."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from zsq_compile.config.distillation import DistillConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.progress import Advance
from zsq_compile.quantization.distillation.batches import Batches, LiveSamples
from zsq_compile.quantization.distillation.losses import attention_distance, output_distance
from zsq_compile.quantization.reconstruction.block_student import BlockStudent, LearningRates
from zsq_compile.quantization.reconstruction.values import QuantizedValues


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """How far training had come when it was judged.

    Attributes:
        step: steps done.
        loss: mean of the training loss since the point before; None at the start.
        agreement: share of common decisions on held-out samples; None where no output has classes.
        divergence: distance of the outputs on them, of classes at temperature 1.
        live: figures of the samples that were made since the point before, by name; None where none were.

    """

    step: int
    loss: float | None
    agreement: float | None
    divergence: float
    live: Mapping[str, float] | None = None

    def beats(self, other: "CurvePoint") -> bool:
        """Whether this is better: by the distance, as decisions on few samples are luck by a good part."""
        return math.isfinite(self.divergence) and not self.divergence >= other.divergence


def learning_rates(learning_rate: float) -> LearningRates:
    """Step sizes of all kinds of numbers from that of codes: a step that serves a whole channel moves by less."""
    return LearningRates(
        codes=learning_rate, weight_steps=learning_rate / 10, scales=learning_rate / 5, biases=learning_rate
    )


def mix_up(inputs: Mapping[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
    """Mix each sample with another: share u of the one and 1 - u of the other, u even in [0, 1], for all inputs."""
    count = len(next(iter(inputs.values())))
    partner, share = torch.randperm(count, generator=rng), torch.rand(count, generator=rng)
    return {name: torch.lerp(x[partner], x, share.to(x).reshape(-1, *[1] * (x.ndim - 1))) for name, x in inputs.items()}


def perturb(inputs: Mapping[str, Tensor], size: float) -> dict[str, Tensor]:
    """Push samples up the gradient of the loss: x + size * std(x) * sign(gradient); inputs without one stay."""
    return {
        name: x.detach() if x.grad is None else x.detach() + size * x.detach().std(correction=0) * x.grad.sign()
        for name, x in inputs.items()
    }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DistillationLoss:
    """The loss of one batch, differentiable to the student's numbers and to the inputs.

    The outputs of both networks are compared, and the channel attentions of the maps that ``features`` names.
    """

    student: BlockStudent
    teacher: TorchGraph
    outputs: tuple[str, ...]
    features: tuple[str, ...] = ()
    config: DistillConfig

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Compute the loss; what the teacher makes of the inputs is the target."""
        wanted = tuple(dict.fromkeys((*self.outputs, *self.features)))
        with torch.set_grad_enabled(any(x.requires_grad for x in inputs.values())):
            targets = self.teacher.run(inputs, wanted)
        made = self.student.run_quantized(inputs, wanted)
        loss = output_distance(made, {name: targets[name] for name in self.outputs}, self.config.temperature)
        if self.features:
            loss = loss + self.config.feature_weight * attention_distance(made, targets, self.features)
        return loss


class Trainer:
    """Trains a student, and keeps the best of what it was.

    Args:
        loss: of a batch; its configuration has the rates, mixup and perturbation as well.
        check: agreement and distance of values on held-out samples.
        start: values that the student starts from.
        rng: of mixtures; batches draw from it as well.
        live: makes some of the samples; None where nothing does.
        part: samples of a batch whose gradients fit in memory together; None for all.

    Attributes:
        step, reached: steps done, and the progress of the last of them, from 0 to 1.
        best, best_point: the best values so far, and where they were judged.
        curve: all judgements.

    """

    def __init__(
        self,
        loss: DistillationLoss,
        check: Callable[[QuantizedValues], tuple[float | None, float]],
        start: QuantizedValues,
        rng: torch.Generator,
        live: LiveSamples | None = None,
        *,
        part: int | None = None,
    ) -> None:
        self._part = part
        self._loss, self._check, self._start, self._rng, self._live = loss, check, start, rng, live
        self._student, self._config, self._device = loss.student, loss.config, loss.teacher.device
        self._optimizer = self._student.optimizer(learning_rates(self._config.learning_rate))
        self._first = [group["lr"] for group in self._optimizer.param_groups]
        self._losses: list[float] = []
        self.step, self.reached = 0, 0.0
        self.best, self.curve = start, list[CurvePoint]()
        self.best_point: CurvePoint | None = None

    def train(
        self,
        batches: Batches,
        pace: Iterator[float],
        interval: int,
        advance: Advance,
        between: Callable[[], None],
    ) -> None:
        """Train to the end of a pace, which gives the progress from 0 to 1 at the start of each step.

        The start, the end, and every ``interval`` steps are judged. ``between`` is called after each step; what it
        raises ends the training.
        """
        if not self.curve:
            self._look()
        for progress in pace:
            for group, rate in zip(self._optimizer.param_groups, self._first, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress))
            self._optimizer.zero_grad(set_to_none=True)
            self._losses.append(self._gradients(next(batches)))
            self._optimizer.step()
            self.step, self.reached = self.step + 1, progress
            advance(1)
            if self.step % interval == 0:
                self._look()
            between()
        if self.curve[-1].step < self.step:
            self._look()

    def _gradients(self, inputs: Mapping[str, Tensor]) -> float:
        """Add the gradients of one batch to all numbers; returns its loss."""
        chosen = mix_up(inputs, self._rng) if self._config.mixup else inputs
        feed = {name: x.to(self._device) for name, x in chosen.items()}
        count = len(next(iter(feed.values())))
        total = 0.0
        for start in range(0, count, self._part or count):
            one = {name: x[start : start + (self._part or count)] for name, x in feed.items()}
            total += self._part_gradients(one, len(next(iter(one.values()))) / count)
        return total

    def _part_gradients(self, inputs: Mapping[str, Tensor], share: float) -> float:
        """Add the gradients of a part of a batch, which counts by its share; returns what it adds to the loss."""
        feed = dict(inputs)
        if self._config.perturbation:
            feed = {name: x.clone().requires_grad_(x.is_floating_point()) for name, x in feed.items()}
        with reduced_precision(self._device) if self._student.is_coarse else nullcontext():
            loss = share * self._loss(feed)
            loss.backward()  # type: ignore[no-untyped-call]
            if self._config.perturbation:
                harder = share * self._loss(perturb(feed, self._config.perturbation))
                harder.backward()  # type: ignore[no-untyped-call]
                loss = (loss + harder) / 2
        return float(loss.detach())

    def _look(self) -> None:
        values = self._start.merge(self._student.values()) if self.step else self._start
        share, distance = self._check(values)
        loss = sum(self._losses) / len(self._losses) if self._losses else None
        live = None if self._live is None else self._live.measured()
        point = CurvePoint(step=self.step, loss=loss, agreement=share, divergence=distance, live=live)
        self._losses.clear()
        self.curve.append(point)
        if self.best_point is None or point.beats(self.best_point):
            self.best, self.best_point = values, point

    def state(self) -> dict[str, Any]:
        """Return all that ``restore`` needs but the values, as tensors, numbers and lists of them."""
        return {
            "step": self.step,
            "reached": self.reached,
            "losses": list(self._losses),
            "curve": [list(astuple(point)) for point in self.curve],
            "best_step": None if self.best_point is None else self.best_point.step,
            "optimizer": self._optimizer.state_dict(),
            "numbers": [number.detach() for number in self._numbers()],
            "rng": self._rng.get_state(),
            **({} if self._live is None else {"live": dict(self._live.state())}),
        }

    def restore(self, state: Mapping[str, Any], best: QuantizedValues) -> None:
        """Go back to a state that ``state`` gave, with the best values of that time."""
        self.step, self.reached, self._losses = state["step"], state["reached"], list(state["losses"])
        self.curve = [
            CurvePoint(step=step, loss=loss, agreement=share, divergence=distance, live=live)
            for step, loss, share, distance, live in state["curve"]
        ]
        self.best, self.best_point = best, next(p for p in self.curve if p.step == state["best_step"])
        with torch.no_grad():
            for number, kept in zip(self._numbers(), state["numbers"], strict=True):
                number.copy_(kept)
        self._optimizer.load_state_dict(state["optimizer"])
        self._rng.set_state(state["rng"].cpu())
        if self._live is not None:
            self._live.restore(state["live"])

    def _numbers(self) -> list[Tensor]:
        return [number for group in self._optimizer.param_groups for number in group["params"]]
