"""How much of what a network is for its quantized file keeps: on all samples, and on each population of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.tasks.compare_outputs import answering, compare_outputs, join_qualities
from zsq_compile.tasks.task import Task, TaskKind, TaskQuality

Outputs = Mapping[str, NDArray[Any]]

CLASS_KINDS: frozenset[TaskKind] = frozenset({"classification", "indices"})
"""Kinds whose ``kept`` is the share of equal decisions for a class."""

SHARE_KINDS: frozenset[TaskKind] = CLASS_KINDS | {"detection", "segmentation", "heatmaps", "text", "decisions"}
"""Kinds whose ``kept`` is a share of answers, which a gate can hold; of others it is a cosine or an error."""

_PART_BYTES = 32_000_000  # of the outputs of one network that are compared at a time: in float64, and with masks


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFigures:
    """What a quantized file keeps of what the float network is for.

    Attributes:
        kind: see TaskKind.
        reason: why the network is thought to be of this kind.
        threshold: probability from which on an answer counts.
        quality: over all samples; None where the outputs cannot be compared.
        populations: of each population of the samples, in order; () where they are from one.
        obstacle: why the outputs cannot be compared, as a sentence; None where they can.

    """

    kind: TaskKind
    reason: str
    threshold: float = 0.5
    quality: TaskQuality | None = None
    populations: tuple[TaskQuality, ...] = ()
    obstacle: str | None = None

    @property
    def worst(self) -> TaskQuality | None:
        """The population of which least is kept; None where there are not several in which the float network speaks."""
        said = [one for one in self.populations if one.kept is not None]
        return min(said, key=lambda one: one.kept or 0.0) if said else None

    @property
    def share(self) -> float | None:
        """Share of the answers that is kept, 0 to 1; None where there is none, or where ``kept`` is no share."""
        return self.quality.kept if self.quality is not None and self.kind in SHARE_KINDS else None

    @property
    def worst_share(self) -> float | None:
        """The same of the population of which least is kept."""
        return self.worst.kept if self.worst is not None and self.kind in SHARE_KINDS else None

    @property
    def silence(self) -> str | None:
        """Say that nothing was counted of what the network is for, and why; None where something was."""
        if self.quality is None:
            return self.obstacle
        if self.quality.kept is not None:
            return None
        return (
            f"the float model {words_of_silence(self.kind, self.threshold)} on the samples held out: they do not show "
            "what the file keeps; real inputs, with --calib or --data, do"
        )


def judged_outputs(task: Task) -> tuple[str, ...]:
    """Names of the outputs that a task is judged by, in order."""
    if task.heads:
        parts = [part for head in task.heads for part in (head.boxes, *head.scores, head.labels) if part is not None]
        return tuple(dict.fromkeys(part.output for part in parts))
    return tuple(meaning.name for meaning in answering(task))


def missing_outputs(task: Task, present: Collection[str]) -> tuple[str, ...]:
    """Names of the outputs that comparing wants and that are not there, as their size depends on the data."""
    states = [meaning.name for meaning in task.outputs if meaning.role == "state"]
    return tuple(name for name in (*judged_outputs(task), *states) if name not in present)


def measure_task(task: Task, wanted: Outputs, got: Outputs, populations: NDArray[np.int64] | None) -> TaskFigures:
    """Compare outputs (count, ...) by name, of the same shapes, by what they are for.

    Args:
        task: of the float network.
        wanted: its outputs, without those whose size depends on the data.
        got: those of the quantized one.
        populations: (count,) number of the population of each sample; None where all are of one.

    """
    blank = TaskFigures(kind=task.kind, reason=task.reason, threshold=task.threshold)
    missing = missing_outputs(task, wanted)
    if missing or not judged_outputs(task):
        what = f"the size of output {missing[0]!r} depends on the data" if missing else "no output tells it"
        return replace(blank, obstacle=f"what is kept cannot be counted ({task.kind}): {what}")
    pair = _Pair(task=task, wanted=wanted, got=got)
    if populations is None or pair.count != len(populations):
        return replace(blank, quality=pair.compare())
    found = [pair.part(populations == number).compare() for number in np.unique(populations)]
    return replace(blank, quality=join_qualities(found), populations=tuple(found) if len(found) > 1 else ())


def compare_in_parts(task: Task, wanted: Outputs, got: Outputs) -> TaskQuality:
    """Compare outputs (count, ...) by name, as many samples at a time as fit in a bounded part of memory."""
    return _Pair(task=task, wanted=wanted, got=got).compare()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pair:
    """Outputs of two networks, of so many rows for each sample as the task says."""

    task: Task
    wanted: Outputs
    got: Outputs

    @property
    def count(self) -> int | None:
        """Samples; None where outputs have no row for each, so that they are compared as a whole."""
        rows = {one.name: one.entries for one in self.task.outputs}
        counts = {len(array) / rows.get(name, 1) for name, array in self.wanted.items()}
        return int(counts.pop()) if len(counts) == 1 else None

    def compare(self) -> TaskQuality:
        count = self.count
        size = max(_PART_BYTES * (count or 1) // max(sum(array.nbytes for array in self.wanted.values()), 1), 1)
        starts = range(0, count or 0, size)
        parts = [self] if len(starts) < 2 else [self.part(slice(start, start + size)) for start in starts]
        with np.errstate(all="ignore"):  # what is not finite is told elsewhere
            joined = join_qualities(compare_outputs(self.task, part.wanted, part.got) for part in parts)
        assert joined is not None  # a run has a sample
        return joined

    def part(self, samples: NDArray[np.bool_] | slice) -> "_Pair":
        """Return some of the samples."""
        rows = {one.name: one.entries for one in self.task.outputs}
        wanted, got = (
            {name: _take(array, rows.get(name, 1), samples) for name, array in outputs.items()}
            for outputs in (self.wanted, {name: self.got[name] for name in self.wanted})
        )
        return replace(self, wanted=wanted, got=got)


def _take(array: NDArray[Any], rows: int, samples: NDArray[np.bool_] | slice) -> NDArray[Any]:
    """Take samples of so many rows each."""
    if rows < 2:
        return array[samples]
    return array.reshape(-1, rows, *array.shape[1:])[samples].reshape(-1, *array.shape[1:])


def words_of_silence(kind: TaskKind, threshold: float) -> str:
    """Say that the float network says nothing on samples, as a clause without a subject in front."""
    said: Sequence[tuple[TaskKind, str]] = (
        ("detection", "finds nothing"),
        ("text", "reads nothing"),
        ("segmentation", "marks nothing"),
        ("decisions", f"says nothing above {threshold:g}"),
    )
    return dict(said).get(kind, "says nothing")
