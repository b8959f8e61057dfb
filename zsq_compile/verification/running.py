"""Run samples through a session in batches."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.session import Session
from zsq_compile.data.batch_axes import FIRST, BatchAxes
from zsq_compile.errors import ConfigError

Arrays = Mapping[str, NDArray[Any]]
"""Inputs or outputs by name."""

_BATCH = 32
# Every session keeps the memory of its largest batch, so large samples come in smaller ones: 6 pictures of 224 pixels.
_BATCH_BYTES = 4_000_000


def session_batch(session: Session, axes: BatchAxes = FIRST) -> int | None:
    """Batch size that a model insists on; None where it is dynamic."""
    sizes = [axes.size(name, shape) for name, shape in session.input_shapes.items()]
    return max((size for size in sizes if size is not None), default=None)


def fitting_batch(session: Session) -> int:
    """Batch size for a model whose batch is dynamic."""
    sizes = [math.prod(size or 1 for size in shape[1:]) for shape in session.input_shapes.values()]
    return max(min(_BATCH, _BATCH_BYTES // (4 * max([1, *sizes]))), 1)


def run_batched(
    session: Session, inputs: Arrays, *, batch: int | None = None, axes: BatchAxes = FIRST, uneven: Collection[str] = ()
) -> dict[str, NDArray[Any]]:
    """Run samples as ``run_each`` does, and join the outputs along axis 0, without those that are uneven."""
    _, runs = run_each(session, inputs, batch=batch, axes=axes, uneven=uneven)
    return join_runs(runs, leave_out={*uneven, *find_unjoinable(runs)})


def run_each(
    session: Session, inputs: Arrays, *, batch: int | None = None, axes: BatchAxes = FIRST, uneven: Collection[str] = ()
) -> tuple[list[dict[str, NDArray[Any]]], list[dict[str, NDArray[Any]]]]:
    """Run samples in batches of the model's own size; return what was fed to each run, and what came out.

    A last part of the inputs (count, ...) that does not fill a fixed batch is left out; ``batch`` is for dynamic ones,
    and None for what fits. Samples go one by one where the size of an output depends on the data, whose names are
    ``uneven``, and where outputs of whole batches cannot be joined along axis 0. ``axes`` are those that the file has
    its batch on; what is returned has it on axis 0.

    Raises:
        ConfigError: there are fewer samples than one batch of the model, or an input is missing.
        RuntimeModelError: the runtime failed.

    """
    feeds = _cut(session, inputs, 1 if uneven else batch, axes)
    runs = [run_once(session, feed, axes) for feed in feeds]
    if find_unjoinable(runs).difference(uneven) and len(runs) < min(map(len, inputs.values())):
        feeds = _cut(session, inputs, 1, axes)
        runs = [run_once(session, feed, axes) for feed in feeds]
    return feeds, runs


def run_once(session: Session, feeds: Arrays, axes: BatchAxes = FIRST) -> dict[str, NDArray[Any]]:
    """Run inputs with their batch on axis 0; so have the outputs."""
    return axes.from_file(session.run(axes.to_file(feeds)))


def find_unjoinable(runs: Sequence[Arrays]) -> frozenset[str]:
    """Names of the outputs that differ from run to run in another axis than the first."""
    shapes = {name: {np.atleast_1d(run[name]).shape[1:] for run in runs} for name in runs[0]}
    return frozenset(name for name, found in shapes.items() if len(found) > 1)


def join_runs(runs: Sequence[Arrays], *, leave_out: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """Join the outputs of runs along axis 0; a single number counts as one of one element."""
    names = [name for name in runs[0] if name not in leave_out]
    return {name: np.concatenate([np.atleast_1d(run[name]) for run in runs]) for name in names}


def _cut(session: Session, inputs: Arrays, batch: int | None, axes: BatchAxes) -> list[dict[str, NDArray[Any]]]:
    missing = [name for name in session.input_names if name not in inputs]
    if missing:
        raise ConfigError(f"the model needs the input {missing[0]!r}; the data hold {', '.join(inputs)}")
    fixed = session_batch(session, axes)
    size = fixed or batch or fitting_batch(session)
    count = min(len(inputs[name]) for name in session.input_names) // (fixed or 1) * (fixed or 1)
    if count == 0:
        raise ConfigError(f"the model takes {size} samples at a time, but fewer were given")
    return [
        {name: _cast(inputs[name][start : start + size], session, name) for name in session.input_names}
        for start in range(0, count, size)
    ]


def first_sample(session: Session, inputs: Arrays, axes: BatchAxes = FIRST) -> dict[str, NDArray[Any]]:
    """Cut the smallest batch that a session takes out of inputs (count, ...), in the form that it takes."""
    sizes = {name: axes.size(name, shape) or 1 for name, shape in session.input_shapes.items()}
    return axes.to_file({name: _cast(inputs[name][:size], session, name) for name, size in sizes.items()})


def _cast(array: NDArray[Any], session: Session, name: str) -> NDArray[Any]:
    return np.ascontiguousarray(array.astype(session.input_dtypes.get(name, array.dtype), copy=False))
