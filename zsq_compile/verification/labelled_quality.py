"""Run the float model and the quantized file on the user's data, and say how well both do what they are for."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from backends.session import Session
from zsq_compile.data.batch_axes import BatchAxes
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ConfigError, ValidationError
from zsq_compile.tasks.compare_outputs import join_qualities
from zsq_compile.tasks.labelled import Meter, make_meter
from zsq_compile.tasks.task import Task, TaskQuality
from zsq_compile.tasks.truths import LabelledFigure, Truth
from zsq_compile.verification.running import Arrays, fitting_batch, run_batched, session_batch
from zsq_compile.verification.side_by_side import run_side_by_side
from zsq_compile.verification.task_figures import CLASS_KINDS, compare_in_parts, judged_outputs, missing_outputs

_CHANNELS = (1, 3, 4)  # of pictures that are ready for the network, in front or behind


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledQuality:
    """Both models on the user's data.

    Attributes:
        samples: how many were run.
        top1_float: share of right decisions for a class of the float model, 0 to 1; None without labels that are such.
        top1_quantized: the same of the quantized model.
        agreement: share of equal decisions for a class, 0 to 1; None where the network is for something else.
        float_figure: how well the float model does by other labels: boxes, masks, texts, yes or no; None without.
        quantized_figure: the same of the quantized model.
        quality: what is kept of what the float model says; None of networks that choose a class.

    """

    samples: int
    top1_float: float | None
    top1_quantized: float | None
    agreement: float | None
    float_figure: LabelledFigure | None = None
    quantized_figure: LabelledFigure | None = None
    quality: TaskQuality | None = None


def measure_labelled(
    reference: Session,
    session: Session,
    data: Dataset,
    task: Task | None,
    *,
    axes: BatchAxes,
    uneven: Collection[str],
) -> LabelledQuality:
    """Measure both models on data with labels or without; without a task they are taken for classifiers.

    Raises:
        ConfigError: the data do not fit the model, or the labels say nothing of what it is for.
        ValidationError: the quantized file cannot be run on them, or has other outputs.
        RuntimeModelError: the float model failed.

    """
    kind = data.truth_kind
    if task is None or (task.kind in CLASS_KINDS and kind in (None, "classes")):
        return _classes(reference, session, data, axes, uneven)
    meters = _meters(task, data)
    if kind is not None and meters is None:
        if kind == "classes":
            return _classes(reference, session, data, axes, uneven)
        raise ConfigError(f"the labels of --data are {kind}, which say nothing of a network for {task.kind}")
    samples, parts = 0, []
    fixed = session_batch(reference, axes) or 1
    size = max(fitting_batch(reference) // fixed, 1) * fixed
    for feeds, _ in data.batches(size):
        count = min(len(array) for array in feeds.values()) // fixed * fixed
        if count == 0:
            continue
        wanted, got = (run_batched(one, feeds, batch=size, axes=axes, uneven=uneven) for one in (reference, session))
        for meter, outputs in zip(meters or (), (wanted, got), strict=False):
            _add(meter, outputs, data.truths(samples, samples + count))
        quality = _kept(task, wanted, got)
        parts += [] if quality is None else [quality]
        samples += count
    if not samples:
        raise ConfigError(f"the model takes {fixed} samples at a time, but the data hold {len(data)}")
    before, after = (None, None) if meters is None else (meter.figure() for meter in meters)
    return LabelledQuality(
        samples=samples,
        top1_float=None,
        top1_quantized=None,
        agreement=None,
        float_figure=before,
        quantized_figure=after,
        quality=join_qualities(parts),
    )


def _classes(
    reference: Session, session: Session, data: Dataset, axes: BatchAxes, uneven: Collection[str]
) -> LabelledQuality:
    found = run_side_by_side(reference, {"quantized": session}, data, axes=axes, uneven=uneven)
    if found.failures:
        raise ValidationError(f"the emitted model failed on the labelled data: {found.failures['quantized']}")
    before, after = found.qualities["float"], found.qualities["quantized"]
    return LabelledQuality(
        samples=after.samples, top1_float=before.top1, top1_quantized=after.top1, agreement=after.agreement
    )


def _meters(task: Task, data: Dataset) -> tuple[Meter, Meter] | None:
    """Return one for each model; None where there are no labels, or such that say nothing of the task."""
    kind, annotations = data.truth_kind, data.annotations
    if kind is None:
        return None
    words = None if annotations is None else annotations.words
    first, second = (make_meter(task, kind, size=_picture_size(data), words=words) for _ in range(2))
    return None if first is None or second is None else (first, second)


def _picture_size(data: Dataset) -> tuple[int, int] | None:
    """Rows and columns of the pictures that go in; None without any."""
    if data.preparation is not None:
        return data.preparation.spec.height, data.preparation.spec.width
    shapes = [rows.shape[1:] for rows in data.samples.values() if isinstance(rows, np.ndarray) and rows.ndim == 4]
    if not shapes:
        return None
    first, second, third = shapes[0]
    return (first, second) if third in _CHANNELS and first not in _CHANNELS else (second, third)


def _add(meter: Meter, outputs: Arrays, truths: Sequence[Truth]) -> None:
    try:
        meter.add(outputs, truths)
    except ValueError as error:
        raise ConfigError(f"--data does not fit the model: {error}") from error


def _kept(task: Task, wanted: Arrays, got: Arrays) -> TaskQuality | None:
    """Compare what both say; None where the size of an output depends on the data."""
    if not judged_outputs(task) or missing_outputs(task, wanted):
        return None
    for name, array in wanted.items():
        if name not in got or got[name].shape != array.shape:
            raise ValidationError(f"the emitted model has another output {name!r} on the labelled data")
    return compare_in_parts(task, wanted, got)
