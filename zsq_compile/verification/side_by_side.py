"""Top-1, agreement and SQNR of quantized files of one float model on the same samples.

Samples are run batch by batch through all models, so that neither the data nor the outputs need to fit into memory.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session
from zsq_compile.data.batch_axes import FIRST, BatchAxes
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ConfigError
from zsq_compile.metrics import LEAST_POWER, array_outputs, decibels, decision_output, decisions, powers, top1
from zsq_compile.progress import Advance, ignore_steps
from zsq_compile.verification.running import fitting_batch, run_batched, session_batch

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Figures of one model over all samples.

    Attributes:
        samples: how many were run.
        top1: share of right decisions, 0 to 1; None without labels.
        agreement: share of decisions that are the float model's, 0 to 1; None where no output holds decisions.
        sqnr_db: in dB, of the worst float output that is not silent; None without one.

    """

    samples: int
    top1: float | None
    agreement: float | None
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """Qualities by name; a model that failed is in ``failures`` instead, with the reason."""

    qualities: Mapping[str, Quality]
    failures: Mapping[str, str]


def run_side_by_side(
    reference: Session,
    sessions: Mapping[str, Session],
    data: Dataset,
    advance: Advance = ignore_steps,
    *,
    axes: BatchAxes = FIRST,
    uneven: Collection[str] = (),
) -> SideBySide:
    """Run the float model and others over all samples.

    Args:
        reference: the float model; its own quality is under the name ``float``.
        sessions: the others by name.
        data: samples, with labels or without; a last part that does not fill a fixed batch is left out.
        advance: called with the number of samples run.
        axes: of the batch in all files.
        uneven: names of the outputs whose size depends on the data, which have no part in the figures.

    Raises:
        ConfigError: the data do not fit the float model, or labels fit none of its outputs.
        RuntimeModelError: the float model failed.

    """
    fixed = session_batch(reference, axes) or 1
    scores = {name: _Score() for name in ("float", *sessions)}
    failures: dict[str, str] = {}
    size = max(fitting_batch(reference) // fixed, 1) * fixed
    for feeds, labels in data.batches(size):
        count = min(len(array) for array in feeds.values()) // fixed * fixed
        if count == 0:
            continue
        truth = None if labels is None else labels[:count]
        wanted = run_batched(reference, feeds, batch=size, axes=axes, uneven=uneven)
        scores["float"].add(count, wanted, wanted, truth)
        for name, session in sessions.items():
            if name not in failures:
                try:
                    got = run_batched(session, feeds, batch=size, axes=axes, uneven=uneven)
                    scores[name].add(count, wanted, got, truth)
                except (RuntimeModelError, ConfigError, _UnlikeError) as error:
                    failures[name] = str(error)
        advance(count)
    if not scores["float"].samples:
        raise ConfigError(f"the model takes {fixed} samples at a time, but the data hold {len(data)}")
    return SideBySide(
        qualities={name: score.quality() for name, score in scores.items() if name not in failures}, failures=failures
    )


class _UnlikeError(ValueError):
    """The outputs of a model are not those of the float one."""


class _Score:
    """Sums over batches."""

    def __init__(self) -> None:
        self.samples = 0
        self._right: int | None = None
        self._equal = self._decisions = 0
        self._powers: dict[str, tuple[float, float]] = {}

    def add(self, count: int, wanted: Outputs, got: Outputs, labels: NDArray[np.int64] | None) -> None:
        _require_alike(wanted, got)
        self.samples += count
        outputs = array_outputs(wanted)
        for name, array in wanted.items():
            if outputs[name].is_float:
                signal, noise = self._powers.get(name, (0.0, 0.0))
                more_signal, more_noise = powers(array, got[name])
                self._powers[name] = signal + more_signal, noise + more_noise
        decides = decision_output(outputs, per_sample=labels is not None)
        if decides is None:
            if labels is not None:
                shapes = ", ".join(f"{name} {array.shape}" for name, array in wanted.items())
                raise ConfigError(f"labels need an output with one row of scores for each sample; got {shapes}")
            return
        chosen, others = decisions(wanted[decides]), decisions(got[decides])
        assert chosen is not None and others is not None
        self._equal += int(np.count_nonzero(chosen == others))
        self._decisions += chosen.size
        if labels is not None:
            self._right = (self._right or 0) + _count_right(got[decides], labels, decides)

    def quality(self) -> Quality:
        return Quality(
            samples=self.samples,
            top1=None if self._right is None else self._right / self.samples,
            agreement=self._equal / self._decisions if self._decisions else None,
            sqnr_db=min((decibels(*sums) for sums in self._powers.values() if sums[0] > LEAST_POWER), default=None),
        )


def _require_alike(wanted: Outputs, got: Outputs) -> None:
    for name, array in wanted.items():
        if name not in got:
            raise _UnlikeError(f"it has no output {name!r}, which the float model has; it has {', '.join(got)}")
        if got[name].shape != array.shape:
            raise _UnlikeError(f"its output {name!r} is {got[name].shape}, and that of the float model {array.shape}")


def _count_right(scores: NDArray[Any], labels: NDArray[np.int64], name: str) -> int:
    try:
        return round(top1(scores, labels) * len(labels))
    except ValueError as error:
        raise ConfigError(f"the labelled data do not fit the output {name!r}: {error}") from error
