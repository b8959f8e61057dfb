"""How good a joint choice is: noise of the outputs, and what is kept of what they are for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from zsq_compile.metrics import decibels
from zsq_compile.quantization.mixed_precision.sensitivity import measure_nsr
from zsq_compile.tasks.compare_classes import margins
from zsq_compile.tasks.compare_outputs import answering, compare_outputs
from zsq_compile.tasks.scores import log_probabilities
from zsq_compile.tasks.task import Task, TaskQuality

_CLEARLY = 0.01  # of the decisions: shares that follow from margins differ by a hair where nothing is gained
_EXPECTED = "equal largest scores, by their margins,"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One network against the float one, on the population that suits it least.

    Attributes:
        nsr: noise-to-signal ratio, averaged over the outputs; see ``measure_nsr``.
        kept: share of what the float network says that is kept, 0 to 1; None where nobody knows what the outputs say.
        measure: what ``kept`` counts; empty likewise.
        harm: see ``TaskQuality``; None likewise.
        decides: ``kept`` is by the user's own metric, and decides alone, whatever the noise.
        count: of what ``kept`` is a share of; 0 where it is none of single things.

    """

    nsr: float
    kept: float | None = None
    measure: str = ""
    harm: float | None = None
    decides: bool = False
    count: int = 0

    @property
    def noise_db(self) -> float:
        """Signal to noise of the outputs in dB."""
        return decibels(1.0, self.nsr)


def judge(task: Task | None, wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> Judgement:
    """Judge the outputs of a network, (count, ...) by name, against those of the float network."""
    quality = None if task is None else _compare(task, wanted, got)
    nsr = measure_nsr(wanted, got)
    if quality is None:
        return Judgement(nsr=nsr)
    assert task is not None
    judged = Judgement(nsr=nsr, kept=quality.kept, measure=quality.measure, harm=quality.harm, count=quality.count)
    if task.kind != "classification":
        return judged
    return replace(judged, kept=_expected_kept(task, wanted, got), measure=_EXPECTED, count=0)


def worst(judgements: Sequence[Judgement]) -> Judgement:
    """Return the least of several judgements, entry by entry."""
    first, *others = judgements
    for other in others:
        kept = [one for one in (first.kept, other.kept) if one is not None]
        harm = [one for one in (first.harm, other.harm) if one is not None]
        first = Judgement(
            nsr=max(first.nsr, other.nsr),
            kept=min(kept, default=None),
            measure=first.measure or other.measure,
            harm=max(harm, default=None),
            count=min(first.count, other.count),
        )
    return first


def is_better(one: Judgement, other: Judgement, *, quieter: float) -> bool:
    """Tell whether a network has so many times less noise than another, or keeps clearly more."""
    keeps_more = one.kept is not None and other.kept is not None and one.kept > other.kept + _CLEARLY
    return one.nsr * quieter <= other.nsr or keeps_more


def _compare(task: Task, wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> TaskQuality | None:
    names = {meaning.name for meaning in task.outputs} & wanted.keys()
    if not names or any(len(wanted[name]) != len(got[name]) for name in names):
        return None
    before, after = ({name: part[name].numpy(force=True) for name in names} for part in (wanted, got))
    try:
        quality = compare_outputs(task, before, after)
    except (ValueError, KeyError):  # the outputs at hand are not those that answer, as where sizes follow the data
        return None
    return quality if math.isfinite(quality.harm) else None


def _expected_kept(task: Task, wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> float:
    """Share of largest scores that stay, as margins and the noise of margins have it.

    Of 8 samples one that changes says nothing. How likely each is to change, where errors of margins are normal and
    equally large for all, is known far better than how many did.
    """
    kept = []
    for meaning in answering(task):
        if meaning.name not in wanted:
            continue
        axis = wanted[meaning.name].ndim - 1 if meaning.axis is None else meaning.axis
        rows = [
            np.moveaxis(part[meaning.name].numpy(force=True), axis, -1).reshape(-1, part[meaning.name].shape[axis])
            for part in (wanted, got)
        ]
        before, after = margins(*(log_probabilities(array, meaning.scores) for array in rows))
        error = max(float(np.sqrt(np.mean((after - before) ** 2))), 1e-12)
        kept.append(1.0 - float(np.mean([math.erfc(one / error / math.sqrt(2.0)) for one in before])) / 2.0)
    return min(kept, default=1.0)


def join_runs(runs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Put the outputs of several batches behind each other."""
    names = runs[0].keys()
    return {name: torch.cat([one[name].reshape(one[name].shape or (1,)) for one in runs]) for name in names}
