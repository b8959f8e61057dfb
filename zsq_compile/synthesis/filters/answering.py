"""Move a share of the samples until the network answers: finds a thing, reads a character, hears a voice.

Photographs seldom show what a network was made to find, and procedural pictures never do. What it computes of them
stays small then, and its quantized file cuts off what it computes of real ones. How many of the things are found again
with and without stands in `benchmarks/results/answering.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import Effort
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.differentiable.find_answers import AnsweringHead, find_answers
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress
from zsq_compile.synthesis.budget import ANSWERS, plan_budget
from zsq_compile.synthesis.filters.choose_feeds import choose_feeds
from zsq_compile.synthesis.filters.raise_answers import draw_goals, raise_answers
from zsq_compile.synthesis.generator import Generator, SyntheticSet
from zsq_compile.synthesis.images.procedural import as_input
from zsq_compile.synthesis.probe import batches, measure_cost
from zsq_compile.synthesis.task import SynthesisTask

_BATCH = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnsweringHeads:
    """Heads of a network that answer seldom.

    Attributes:
        heads: all of them.
        silent: those of them that answer on fewer samples than wanted.
        shares: share of the samples on which each head answers, by its logits.

    """

    heads: tuple[AnsweringHead, ...]
    silent: tuple[AnsweringHead, ...]
    shares: Mapping[str, float]


class AnsweringGenerator:
    """Another generator's set, of which an even share of feeds is moved until heads answer that were silent.

    A set with labels, and one on which no head is silent, stay as they are, and so does that of a classifier with
    exclusive classes: every sample has a class. Whether samples make up one sequence is told by inputs that every run
    gets whole: then the moved ones are neighbours.

    Args:
        inner: makes the set.
        inputs: of the network.
        share: of the samples that answer in the end, 0 to 1.
        effort: how much work to do.
        progress: receives the stage, and a note of what was done.

    """

    def __init__(
        self, inner: Generator, inputs: Sequence[InputSpec], share: float, effort: Effort, progress: Progress
    ) -> None:
        self._inner = inner
        self._inputs = inputs
        self._share = share
        self._effort = effort
        self._progress = progress
        self._feed = fixed_batch(inputs) or 1

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator."""
        made = self._inner.synthesize(teacher, statistics, count, rng)
        return made.with_each(lambda part: self._changed(part, teacher))

    def _changed(self, made: SyntheticSet, teacher: TorchGraph) -> SyntheticSet:
        movable = [spec.name for spec in self._inputs if _is_movable(spec)]
        if made.labels is not None or not movable or not self._share:
            return made
        feeds = {name: value.to(teacher.device) for name, value in made.inputs.items()}
        seen = find_silent(teacher, feeds, self._share, self._feed if self._feed > 1 else None)
        if not seen.silent:
            return made
        chosen = self._choose(len(next(iter(feeds.values()))))
        if not chosen.any():  # too few samples to share
            return made
        moved = self._move(teacher, made, {name: x[chosen] for name, x in feeds.items()}, movable, seen.silent)
        if moved is None:
            return made
        inputs = {name: value.clone() for name, value in made.inputs.items()}
        for spec in self._inputs:
            if spec.name in movable:
                inputs[spec.name][chosen] = as_input(spec, moved[spec.name])
        return replace(made, inputs=inputs, algorithm=f"{made.algorithm}, {int(chosen.sum())} of them answering")

    def _choose(self, count: int) -> Tensor:
        """(count,) truth values: whole feeds, spread evenly over the set, or the first of a sequence."""
        if _is_sequence(self._inputs):
            return torch.arange(count) // self._feed < round(self._share * count)
        return choose_feeds(count, self._feed, self._share)

    def _move(
        self,
        teacher: TorchGraph,
        made: SyntheticSet,
        feeds: Mapping[str, Tensor],
        movable: Sequence[str],
        silent: Sequence[AnsweringHead],
    ) -> Mapping[str, Tensor] | None:
        """Network inputs on which silent heads answer; None where the network is too large for that."""
        task = SynthesisTask(
            name=made.algorithm,
            teacher=teacher,
            inputs=self._inputs,
            preprocessing=made.preprocessing,
            layers=(),
            effort=self._effort,
            progress=self._progress,
        )
        names, count = [head.logits for head in silent], len(next(iter(feeds.values())))
        cost = measure_cost(teacher, next(batches(feeds, self._feed)), names)
        budget = plan_budget(count, self._effort, cost, batch_size=task.fixed_batch, allowance=ANSWERS)
        words = f"{len(silent)} of the outputs that find things are silent on nearly all samples"
        if budget.iterations == 0:
            self._progress.note(f"{words}, and the network is too large to move samples until they answer")
            return None
        sequence = _is_sequence(self._inputs)
        size = task.fixed_batch or (count if sequence else min(budget.batch_size, _BATCH))
        rng = torch.Generator(device=teacher.device).manual_seed(made.seed)
        samples = {
            name: made.preprocessing[name].decode(value) if name in made.preprocessing else value
            for name, value in feeds.items()
        }
        parts, reached = [], 0
        with self._progress.stage("answering samples", count) as advance:
            for part in batches(samples, size):
                with torch.no_grad():
                    goals = draw_goals(silent, teacher.run(task.encode(part), names), rng)
                together = sequence or self._feed > 1
                done, there = raise_answers(task, part, movable, goals, rng, budget.iterations, together=together)
                parts.append(done)
                reached += there
                advance(len(next(iter(part.values()))))
        self._progress.note(f"{words}: {reached} of {count} samples were moved until they answer")
        with torch.no_grad():
            return task.encode({name: torch.cat([part[name] for part in parts]) for name in samples})


def find_silent(
    teacher: TorchGraph, feeds: Mapping[str, Tensor], share: float, feed: int | None = None
) -> AnsweringHeads:
    """Find the heads that answer seldom, and those of them that do so on less than a ``share`` of the samples.

    Args:
        teacher: the float network.
        feeds: network inputs, (count, ...) by name.
        share: of the samples.
        feed: samples that the network takes at a time; None for any number.

    """
    parts = list(batches(feeds, feed or _BATCH))
    heads = find_answers(teacher, parts)
    strongest: dict[str, list[Tensor]] = {head.logits: [] for head in heads}
    with torch.no_grad():
        for part in parts if heads else ():
            values = teacher.run(part, list(strongest))
            for head in heads:
                strongest[head.logits].append(head.strongest(values[head.logits]))
    shares = {name: float((torch.cat(odds) > 0.0).float().mean()) for name, odds in strongest.items()}
    silent = tuple(head for head in heads if shares[head.logits] < share)
    return AnsweringHeads(heads=tuple(heads), silent=silent, shares=shares)


def _is_movable(spec: InputSpec) -> bool:
    """Whether an input has one value for each sample that may be any number."""
    return spec.can_be_made and not spec.takes_stand_ins and spec.batch_axis is not None


def _is_sequence(inputs: Sequence[InputSpec]) -> bool:
    """Whether the samples of a run follow each other: states are given to it once."""
    return any(spec.batch_axis is None for spec in inputs)
