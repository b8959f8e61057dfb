"""Samples of a network's inputs, and the batches that they are fed in."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsq_compile.differentiable.module import TorchGraph

Batch = Mapping[str, Tensor]
"""Network inputs by name, (count, ...)."""

PROBABLE = 0.25
"""Of the probability of the most probable population: what is below it is improbable beside that one."""

_BATCH = 32
_JUDGED = 8  # one batch in so many judges
_HELD_BYTES = 256_000_000  # for the values of the graph where all are kept
_KEPT_BYTES = 160_000_000  # for those that wait for their gradients, whose kernels keep as much again, and gradients
_OUTPUT_BYTES = 128_000_000  # of one network, where several are compared
_LIVE_BYTES = 256_000_000  # for those that live at the same time in a run; kernels need as much again


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """Batches of samples that are alike in what is not known of the data, and the probability that data are so."""

    batches: Sequence[Batch]
    probability: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Samples:
    """Samples of the inputs of one network.

    Attributes:
        inputs: (count, ...) by name.
        fixed: the batch size that the network insists on; None where any will do.
        populations: (count,) int64, number of the population that each sample is from, such as a preprocessing that the
            network may want: what is chosen on the samples is to suit the worst of them. Whole batches of a fixed size
            are of one. None where all samples are of the same.
        probabilities: of the populations, by their numbers; () where there is one.

    """

    inputs: Batch
    fixed: int | None = None
    populations: Tensor | None = None
    probabilities: tuple[float, ...] = ()

    def parts(self) -> tuple["Samples", ...]:
        """Return the samples of each population, in order; all of them where there is one."""
        if self.populations is None:
            return (self,)
        numbers = sorted(set(self.populations.tolist()))
        own = [(self.populations == number).nonzero()[:, 0] for number in numbers]
        return tuple(replace(self.chosen(places), populations=None, probabilities=()) for places in own)

    def probable(self) -> "Samples":
        """Return the samples of the most probable population, and of those that are not improbable beside it."""
        if self.populations is None or not self.probabilities:
            return self
        least = PROBABLE * max(self.probabilities)
        kept = torch.tensor([one >= least for one in self.probabilities])
        found = self.chosen(kept[self.populations].nonzero()[:, 0])
        return found if int(kept.sum()) > 1 else replace(found, populations=None, probabilities=())

    def chosen(self, places: Tensor) -> "Samples":
        """Return the samples at some places, int64."""
        inputs = {name: value[places] for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, populations=None if self.populations is None else self.populations[places])

    def feed_of(self, model: ir.Model) -> int:
        """Count the samples of one batch: what the network insists on, or a convenient number that fits a run."""
        return self.fixed or min(_LIVE_BYTES // count_live_bytes(model), _BATCH) or 1

    @property
    def count(self) -> int:
        """Samples that fill batches; a rest that does not fill one of a fixed size is left out."""
        count = min(map(len, self.inputs.values()), default=0)
        return count - count % self.fixed if self.fixed else count

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all samples, (count, ...) by name, as a runtime takes them."""
        return {name: value.numpy() for name, value in self.inputs.items()}

    def batches(self, largest: int = _BATCH) -> list[dict[str, Tensor]]:
        """Cut the samples into batches of the fixed size, or of at most ``largest``."""
        size = self.fixed or largest
        return [{name: x[i : i + size] for name, x in self.inputs.items()} for i in range(0, self.count, size)]

    def fitting(self, model: ir.Model) -> list[dict[str, Tensor]]:
        """Cut the samples into batches that a run of a model needs a bounded part of memory for."""
        return self.batches(self.feed_of(model))

    def fitting_parts(self, model: ir.Model) -> list["Population"]:
        """Cut the samples of each population into such batches."""
        numbers = [0] if self.populations is None else sorted(set(self.populations.tolist()))
        weights = [self.probabilities[number] if self.probabilities else 1.0 for number in numbers]
        return [Population(part.fitting(model), weight) for part, weight in zip(self.parts(), weights, strict=True)]

    def join(self, model: ir.Model) -> list[dict[str, Tensor]]:
        """One batch of as many samples as fit a run of a model; all batches where their size is fixed."""
        batches = self.batches(_LIVE_BYTES // count_live_bytes(model) or 1)
        return batches if self.fixed else batches[:1]

    def comparable(self, model: ir.Model) -> "Samples":
        """Return as many as have outputs that fit in a bounded part of memory, two of them at least."""
        most = max(_OUTPUT_BYTES // max(sum(map(_sample_bytes, model.graph.outputs)), 1), 2)
        kept = max(most // (self.fixed or 1), 1) * (self.fixed or 1)
        populations = None if self.populations is None else self.populations[:kept]
        inputs = {name: value[:kept] for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, populations=populations)

    def take_few(self, model: ir.Model) -> list[dict[str, Tensor]]:
        """At most 32 samples, fewer of a large network: one batch, or several of a fixed size."""
        most = count_fitting_samples(model)
        return self.batches(most)[: max(most // self.fixed, 1) if self.fixed else 1]

    def halves(self) -> tuple["Samples", "Samples"]:
        """Return every other batch of the fixed size: some to choose by, others to judge by; the same where one is all.

        What was chosen as the best on some samples looks better on these than it is.
        """
        turns = self._turns(torch.arange(self.count))
        if not len(turns) or int(turns.max()) == 0:
            return self, self
        first, second = (self.chosen((turns % 2 == side).nonzero()[:, 0]) for side in (0, 1))
        return first, second

    def split(self, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return indices of the samples to learn from and of those to judge by; the same where there is one batch.

        ``chosen`` are the indices of whole batches to be split; None stands for all.
        """
        index = torch.arange(self.count) if chosen is None else chosen
        turns = self._turns(index)
        period = min(_JUDGED, int(turns.max()) + 1)
        judged = turns % period == period - 1
        return index[~judged] if period > 1 else index[judged], index[judged]

    def _turns(self, index: Tensor) -> Tensor:
        """Count the batches of each population in front of each sample, where ``index`` are all samples."""
        return count_turns(len(index), self.fixed, None if self.populations is None else self.populations[index])

    def draw(self, chosen: Tensor, batch: int, rng: torch.Generator) -> Tensor:
        """Draw indices of one batch out of those chosen, none twice; a whole one where its size is fixed."""
        size = self.fixed or 1
        groups = torch.randperm(len(chosen) // size, generator=rng)[: batch // size]
        return chosen.reshape(-1, size)[groups].reshape(-1)

    def deal(self, chosen: Tensor, batch: int, rng: torch.Generator) -> Iterator[Tensor]:
        """Draw batches without an end: all samples before any comes again, in another order each time.

        A rest that does not fill a batch is dealt with what comes next.
        """
        size = self.fixed or 1
        left = torch.empty(0, dtype=torch.int64)
        while True:
            while len(left) < min(batch, len(chosen)):
                left = torch.cat([left, self.draw(chosen, len(chosen), rng)])
            yield left[: batch // size * size]
            left = left[batch // size * size :]


def count_turns(count: int, fixed: int | None, populations: Tensor | None) -> Tensor:
    """Count the batches of its own population in front of each of ``count`` samples, int64 (count,)."""
    feed = fixed or 1
    turns = torch.arange(count) // feed
    if populations is None:
        return turns
    for number in set(populations[:count].tolist()):
        own = populations[:count] == number
        turns[own] = torch.arange(int(own.sum())) // feed
    return turns


def count_value_bytes(model: ir.Model) -> list[int]:
    """Bytes that each value of the graph takes for one sample."""
    return [_sample_bytes(value) for node in model.graph for value in node.outputs if value.shape is not None] or [4]


def count_kept_samples(value_bytes: int) -> int:
    """Count the samples whose values fit in memory with their gradients, from the bytes of one sample's values."""
    return max(_KEPT_BYTES // max(value_bytes, 1), 1)


def count_live_bytes(model: ir.Model) -> int:
    """Bytes of one sample that a run holds at its fullest: values live from their node to their last reader."""
    last = {value: place for place, node in enumerate(model.graph) for value in node.inputs if value is not None}
    outputs, freed = set(model.graph.outputs), Counter[int]()
    fullest = alive = sum(map(_sample_bytes, model.graph.inputs))  # feeds live throughout
    for place, node in enumerate(model.graph):
        for value in node.outputs:
            alive += _sample_bytes(value)
            freed[last.get(value, place)] += 0 if value in outputs else _sample_bytes(value)
        fullest = max(fullest, alive)
        alive -= freed[place]
    return max(fullest, 4)


def _sample_bytes(value: ir.Value) -> int:
    return 0 if value.shape is None else 4 * math.prod(size for size in value.shape[1:] if isinstance(size, int))


def count_fitting_samples(model: ir.Model) -> int:
    """Count the samples whose values, all of them, fit into a bounded part of memory: at most 32."""
    return max(min(_HELD_BYTES // max(sum(count_value_bytes(model)), 1), _BATCH), 1)


def find_batched_values(teacher: TorchGraph, samples: Samples) -> frozenset[str]:
    """Names of the values whose first axis counts samples, seen by running two batches of different sizes."""
    found: list[set[str]] = []
    for size in [samples.fixed] if samples.fixed else [2, 3]:
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
