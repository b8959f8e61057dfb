"""Several quantized files of one float model on the same samples: right decisions, common decisions, noise.

Samples are run batch by batch through all models, so that neither the data nor the outputs need to fit into memory. A
model that fails is told of with its reason, and the others go on.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ConfigError
from zsq_compile.metrics import agreement, class_axis, top1
from zsq_compile.verification.labelled import decision_output
from zsq_compile.verification.running import run_batched

_BATCH = 32
# Every session keeps the memory of its largest batch, so large samples come in smaller ones: 6 pictures of 224 pixels.
_BATCH_BYTES = 4_000_000

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """What one model does on the samples.

    Attributes:
        samples: how many were run.
        top1: share of right decisions, 0 to 1; None without labels.
        agreement: share of decisions that are the float model's, 0 to 1; None where no output decides.
        sqnr_db: signal to quantization noise ratio in dB over all samples, of the worst float output; None without one.

    """

    samples: int
    top1: float | None
    agreement: float | None
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """Qualities by name; what failed has its reason instead."""

    qualities: Mapping[str, Quality]
    failures: Mapping[str, str]


def run_side_by_side(
    reference: Session,
    sessions: Mapping[str, Session],
    data: Dataset,
    advance: Callable[[int], None] = lambda samples: None,
) -> SideBySide:
    """Run the float model and others over all samples and count.

    Args:
        reference: the float model; its own quality is under the name ``float``.
        sessions: the others by name.
        data: samples, with labels or without; a last part that does not fill a fixed batch is left out.
        advance: is told how many samples were run.

    Raises:
        ConfigError: the data do not fit the float model, or labels fit none of its outputs.
        RuntimeModelError: the float model failed.

    """
    fixed = max((shape[0] for shape in reference.input_shapes.values() if shape and shape[0] is not None), default=1)
    scores = {name: _Score() for name in ("float", *sessions)}
    failures: dict[str, str] = {}
    size = max(fitting_batch(reference) // fixed, 1) * fixed
    for feeds, labels in data.batches(size):
        count = min(len(array) for array in feeds.values()) // fixed * fixed
        if count == 0:
            continue
        whole = {name: array[:count] for name, array in feeds.items()}
        truth = None if labels is None else labels[:count]
        wanted = run_batched(reference, whole, batch=size)
        scores["float"].add(wanted, wanted, truth)
        for name, session in sessions.items():
            if name not in failures:
                try:
                    scores[name].add(wanted, run_batched(session, whole, batch=size), truth)
                except (RuntimeModelError, ConfigError, _UnlikeError) as error:
                    failures[name] = str(error)
        advance(count)
    if not scores["float"].samples:
        raise ConfigError(f"the model takes {fixed} samples at a time, but the data hold {len(data)}")
    return SideBySide(
        qualities={name: score.quality() for name, score in scores.items() if name not in failures}, failures=failures
    )


def fitting_batch(reference: Session) -> int:
    """Count the samples to run at a time where the model leaves it open."""
    sizes = [math.prod(size or 1 for size in shape[1:]) for shape in reference.input_shapes.values()]
    return max(min(_BATCH, _BATCH_BYTES // (4 * max([1, *sizes]))), 1)


class _UnlikeError(ValueError):
    """The outputs of a model are not those of the float one."""


class _Score:
    """Sums over batches."""

    def __init__(self) -> None:
        self.samples = 0
        self._right: int | None = None
        self._common = 0.0
        self._decisions = 0
        self._signal: dict[str, float] = {}
        self._noise: dict[str, float] = {}

    def add(self, wanted: Outputs, got: Outputs, labels: NDArray[np.int64] | None) -> None:
        _require_alike(wanted, got)
        self.samples += len(next(iter(wanted.values())))
        for name, array in wanted.items():
            if np.issubdtype(array.dtype, np.floating):
                signal = np.asarray(array, np.float64)
                noise = signal - np.asarray(got[name], np.float64)
                self._signal[name] = self._signal.get(name, 0.0) + float(np.sum(np.square(signal)))
                self._noise[name] = self._noise.get(name, 0.0) + float(np.sum(np.square(noise)))
        decides = _deciding(wanted) if labels is None else decision_output(wanted)
        if decides is None:
            return
        scores, others = wanted[decides], got[decides]
        if labels is not None:
            scores, others = (array.reshape(len(array), -1) for array in (scores, others))
            self._right = (self._right or 0) + _count_right(others, labels, decides)
        count = _decisions(scores)
        self._common += count * agreement(scores, others)
        self._decisions += count

    def quality(self) -> Quality:
        ratios = [_decibel(power, self._noise[name]) for name, power in self._signal.items()]
        return Quality(
            samples=self.samples,
            top1=None if self._right is None else self._right / self.samples,
            agreement=self._common / self._decisions if self._decisions else None,
            sqnr_db=min(ratios, default=None),
        )


def _require_alike(wanted: Outputs, got: Outputs) -> None:
    for name, array in wanted.items():
        if name not in got:
            raise _UnlikeError(f"it has no output {name!r}, which the float model has; it has {', '.join(got)}")
        if got[name].shape != array.shape:
            raise _UnlikeError(f"its output {name!r} is {got[name].shape}, and that of the float model {array.shape}")


def _deciding(outputs: Outputs) -> str | None:
    """Name of the first output that has classes, or holds decisions already."""
    for name, array in outputs.items():
        if array.size and (class_axis(array.shape) is not None or not np.issubdtype(array.dtype, np.floating)):
            return name
    return None


def _decisions(scores: NDArray[Any]) -> int:
    axis = class_axis(scores.shape) if np.issubdtype(scores.dtype, np.floating) else None
    return int(scores.size if axis is None else scores.size // scores.shape[axis])


def _count_right(scores: NDArray[Any], labels: NDArray[np.int64], name: str) -> int:
    try:
        return round(top1(scores[:, 0] if scores.shape[1] == 1 else scores, labels) * len(labels))
    except ValueError as error:
        raise ConfigError(f"the labelled data do not fit the output {name!r}: {error}") from error


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return float("inf")
    return 10.0 * float(np.log10(signal / noise)) if signal > 0.0 else float("-inf")
