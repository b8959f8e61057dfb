"""Run samples through a session in batches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.session import Session
from zsq_compile.data.batch_axes import FIRST, BatchAxes
from zsq_compile.errors import ConfigError


def session_batch(session: Session, axes: BatchAxes = FIRST) -> int | None:
    """Batch size that a model insists on; None where it is dynamic."""
    sizes = [axes.size(name, shape) for name, shape in session.input_shapes.items()]
    return max((size for size in sizes if size is not None), default=None)


def run_batched(
    session: Session, inputs: Mapping[str, NDArray[Any]], *, batch: int = 32, axes: BatchAxes = FIRST
) -> dict[str, NDArray[Any]]:
    """Run samples in batches of the model's own size, and join the outputs along axis 0.

    A last part of the inputs (count, ...) that does not fill a fixed batch is left out; ``batch`` is for dynamic ones.
    ``axes`` are those that the file has its batch on.

    Raises:
        ConfigError: there are fewer samples than one batch of the model, or an input is missing.
        RuntimeModelError: the runtime failed.

    """
    missing = [name for name in session.input_names if name not in inputs]
    if missing:
        raise ConfigError(f"the model needs the input {missing[0]!r}; the data hold {', '.join(inputs)}")
    fixed = session_batch(session, axes)
    size = fixed or batch
    count = min(len(inputs[name]) for name in session.input_names) // (fixed or 1) * (fixed or 1)
    if count == 0:
        raise ConfigError(f"the model takes {size} samples at a time, but fewer were given")
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in session.output_names}
    for start in range(0, count, size):
        feeds = {name: _cast(inputs[name][start : start + size], session, name) for name in session.input_names}
        for name, value in axes.from_file(session.run(axes.to_file(feeds))).items():
            parts[name].append(np.atleast_1d(value))
    return {name: np.concatenate(values) for name, values in parts.items()}


def first_sample(
    session: Session, inputs: Mapping[str, NDArray[Any]], axes: BatchAxes = FIRST
) -> dict[str, NDArray[Any]]:
    """Cut the smallest batch that a session takes out of inputs (count, ...), in the form that it takes."""
    sizes = {name: axes.size(name, shape) or 1 for name, shape in session.input_shapes.items()}
    return axes.to_file({name: _cast(inputs[name][:size], session, name) for name, size in sizes.items()})


def _cast(array: NDArray[Any], session: Session, name: str) -> NDArray[Any]:
    return np.ascontiguousarray(array.astype(session.input_dtypes.get(name, array.dtype), copy=False))
