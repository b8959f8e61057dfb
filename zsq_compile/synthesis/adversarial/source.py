"""What a generator that goes on learning is to others: batches of labelled samples, and a state to be kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from zsq_compile.differentiable.module import TorchGraph

Extra: TypeAlias = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""(fed network inputs by name, the teacher's class scores, asked classes) -> one more term of the loss."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Samples of one training step, as they were before it; no gradient.

    Attributes:
        inputs: (N, ...) by the name of the network's input, ready to feed, on the teacher's device.
        labels: (N,) class that each sample was to show.
        scores: (N, classes) what the teacher makes of them, as the network gives it.
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


class Source(Protocol):
    """A conditional generator with the teacher that it learns against."""

    @property
    def config(self) -> object:
        """Settings, whose ``repr`` tells them all."""

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
        """Make network inputs, ready to feed, one sample for each of the (N,) labels."""

    def step(self, count: int, rng: torch.Generator, extra: Extra | None = None) -> Batch:
        """Take one training step on ``count`` samples, or as many more as fill the network's batch; return them."""

    def piece(self, count: int) -> int:
        """Say how many of ``count`` samples the networks take at a time: the batch they insist on, or what fits."""

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` needs to go on as if nothing had happened: tensors, numbers, lists and dicts."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
