"""A family of inputs for the estimate on which a network that finds, reads or hears something does so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import Effort
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress, Silent
from zsq_compile.synthesis.filters.answering import AnsweringGenerator
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.tasks.task import Task, TaskKind

ANSWERING = "answering"
"""Name of the family."""

_KINDS: tuple[TaskKind, ...] = ("detection", "text", "decisions")
_SAMPLES, _FEWEST = 16, 8
_SEED_OFFSET = 2_000_003


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnsweringFamily:
    """Moves samples of another family until the network answers.

    Attributes:
        teacher: the float network.
        statistics: of it, which are not looked at.
        effort: how much work to do.
        progress: receives a stage and a note.

    """

    teacher: TorchGraph
    statistics: BatchNormStatistics
    effort: Effort = "fast"
    progress: Progress | None = None

    def make(
        self,
        inputs: Sequence[InputSpec],
        preprocessing: Mapping[str, Preprocessing],
        family: Mapping[str, Tensor],
        shares: int,
        rng: torch.Generator,
    ) -> dict[str, Tensor] | None:
        """Return network inputs (count, ...) by name; None where the samples answer by themselves, or none can.

        Args:
            inputs: of the network.
            preprocessing: of the family, by name of the input.
            family: network inputs to start from.
            shares: how many such families share the work.
            rng: all randomness.

        """
        feed = fixed_batch(inputs) or 1
        count = max(_SAMPLES // shares, _FEWEST)
        count = min(-(-count // feed) * feed, *(len(value) for value in family.values()))
        if any(spec.batch_axis is None for spec in inputs):  # a sequence, which is run as a whole
            count = len(next(iter(family.values())))
        start = SyntheticSet(
            inputs={name: value[:count] for name, value in family.items()},
            algorithm=ANSWERING,
            seed=int(rng.initial_seed()) + _SEED_OFFSET,
            loss_curve=(),
            posteriors={name: Posterior.certain(one) for name, one in preprocessing.items()},
        )
        mover = AnsweringGenerator(_Given(start), inputs, 1.0, self.effort, self.progress or Silent())
        made = mover.synthesize(self.teacher, self.statistics, count, rng)
        return None if made is start else dict(made.inputs)


def wants_answers(task: Task) -> bool:
    """Whether a network says nothing to most inputs, so that made-up ones have to be moved until it does."""
    return task.kind in _KINDS


class _Given:
    """Gives a set that is there."""

    def __init__(self, made: SyntheticSet) -> None:
        self._made = made

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator."""
        return self._made
