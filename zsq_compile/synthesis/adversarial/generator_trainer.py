"""A generator network in training: batches of labelled samples, and a state to save."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from zsq_compile.differentiable.module import TorchGraph

ExtraLoss: TypeAlias = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""(network inputs by name, the teacher's class scores, asked classes) -> one more term of the generator's loss."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GeneratedBatch:
    """Samples of one training step, as they were before it; no gradient.

    Attributes:
        inputs: (N, ...) network inputs by name, on the teacher's device.
        labels: (N,) class that each sample was to show.
        scores: (N, classes) what the teacher makes of them, as the network returns it.
        loss: the whole loss.
        class_loss: cross-entropy of the teacher's classes against the labels, not weighted.
        bn_loss: distance from the BatchNormalization statistics, not weighted.

    """

    inputs: Mapping[str, Tensor]
    labels: Tensor
    scores: Tensor
    loss: float
    class_loss: float
    bn_loss: float


class GeneratorTrainer(Protocol):
    """A conditional generator with the teacher that it learns against."""

    @property
    def config(self) -> object:
        """Settings, with a complete ``repr``."""

    @property
    def teacher(self) -> TorchGraph:
        """The network it learns against."""

    @property
    def scores(self) -> str:
        """Name of the teacher's output with class scores."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    def draw(self, labels: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Make network inputs, one sample for each of the (N,) labels."""

    def step(self, count: int, rng: torch.Generator, extra: ExtraLoss | None = None) -> GeneratedBatch:
        """Take one training step on ``count`` samples, or as many more as fill a fixed batch; return them."""

    def micro_batch_size(self, count: int) -> int:
        """How many of ``count`` samples the networks take at a time: their fixed batch, or what fits into memory."""

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` needs to continue exactly: tensors, numbers, lists and dicts."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
