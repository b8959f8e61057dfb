"""Run samples through a session in batches."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.session import Session
from zsq_compile.errors import ConfigError

_BATCH = 32
# Every session keeps the memory of its largest batch, so large samples come in smaller ones: 6 pictures of 224 pixels.
_BATCH_BYTES = 4_000_000


def session_batch(session: Session) -> int | None:
    """Batch size that a model insists on; None where it is dynamic."""
    return max((shape[0] for shape in session.input_shapes.values() if shape and shape[0] is not None), default=None)


def fitting_batch(session: Session) -> int:
    """Batch size for a model whose batch is dynamic."""
    sizes = [math.prod(size or 1 for size in shape[1:]) for shape in session.input_shapes.values()]
    return max(min(_BATCH, _BATCH_BYTES // (4 * max([1, *sizes]))), 1)


def run_batched(
    session: Session, inputs: Mapping[str, NDArray[Any]], *, batch: int | None = None
) -> dict[str, NDArray[Any]]:
    """Run samples in batches of the model's own size, and join the outputs along axis 0.

    A last part of the inputs (count, ...) that does not fill a fixed batch is left out; ``batch`` is for dynamic ones,
    and None for what fits.

    Raises:
        ConfigError: there are fewer samples than one batch of the model, or an input is missing.
        RuntimeModelError: the runtime failed.

    """
    missing = [name for name in session.input_names if name not in inputs]
    if missing:
        raise ConfigError(f"the model needs the input {missing[0]!r}; the data hold {', '.join(inputs)}")
    fixed = session_batch(session)
    size = fixed or batch or fitting_batch(session)
    count = min(len(inputs[name]) for name in session.input_names) // (fixed or 1) * (fixed or 1)
    if count == 0:
        raise ConfigError(f"the model takes {size} samples at a time, but fewer were given")
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in session.output_names}
    for start in range(0, count, size):
        feeds = {name: _cast(inputs[name][start : start + size], session, name) for name in session.input_names}
        for name, value in session.run(feeds).items():
            parts[name].append(np.atleast_1d(value))
    return {name: np.concatenate(values) for name, values in parts.items()}


def first_sample(session: Session, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Cut the smallest batch that a session takes out of inputs (count, ...)."""
    sizes = {name: shape[0] if shape and shape[0] is not None else 1 for name, shape in session.input_shapes.items()}
    return {name: _cast(inputs[name][:size], session, name) for name, size in sizes.items()}


def _cast(array: NDArray[Any], session: Session, name: str) -> NDArray[Any]:
    return np.ascontiguousarray(array.astype(session.input_dtypes.get(name, array.dtype), copy=False))
