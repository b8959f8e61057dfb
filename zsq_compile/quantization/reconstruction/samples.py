"""The samples that a network is learned on, and how they are fed."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.module import TorchGraph

_JUDGED = 8  # one feed in so many judges


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Calibration data of one network.

    Attributes:
        inputs: (count, ...) by name.
        feed: samples of one feed: the batch size that the model insists on, or a convenient one.
        fixed: whether the model insists on it.

    """

    inputs: Mapping[str, Tensor]
    feed: int
    fixed: bool

    @property
    def count(self) -> int:
        """Samples that fill feeds."""
        count = min(len(value) for value in self.inputs.values())
        return count - count % self.feed if self.fixed else count

    def parted(self) -> tuple[Tensor, Tensor]:
        """Return indices of the samples to learn from and of those to judge by; the same where there is one feed."""
        groups = torch.arange(self.count) // (self.feed if self.fixed else 1)
        period = min(_JUDGED, int(groups[-1]) + 1)
        judged = groups % period == period - 1
        index = torch.arange(self.count)
        return index[~judged] if period > 1 else index[judged], index[judged]

    def drawn(self, chosen: Tensor, batch: int, rng: torch.Generator) -> Tensor:
        """Draw indices of one batch out of those chosen; a whole feed where the model insists on its size."""
        if not self.fixed:
            return chosen[torch.randint(len(chosen), (batch,), generator=rng)]
        start = int(torch.randint(len(chosen) // self.feed, (1,), generator=rng)) * self.feed
        return chosen[start : start + self.feed]


def batched_values(teacher: TorchGraph, samples: Samples) -> frozenset[str]:
    """Names of the values whose first axis counts samples, seen by running two batches of different sizes."""
    found: list[set[str]] = []
    for size in [samples.feed] if samples.fixed else [2, 3]:
        names = set(samples.inputs)

        def remember(node: ir.Node, outputs: tuple[Tensor, ...], size: int = size, names: set[str] = names) -> None:
            made = zip(node.outputs, outputs, strict=False)
            names.update(str(value.name) for value, tensor in made if tensor.ndim and len(tensor) == size)

        with torch.inference_mode():
            first = torch.arange(size)
            feed = {name: value[first % len(value)].to(teacher.device) for name, value in samples.inputs.items()}
            teacher.run(feed, visit=remember)
        found.append(names)
    return frozenset(set.intersection(*found))
