"""Check samples that the user brought against the inputs of the network, before anything is computed with them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.operators import DATA_MOVEMENT
from passes.surgery import is_standard
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError
from zsq_compile.files import read_arrays

Arrays = Mapping[str, NDArray[Any]]


def read_samples(given: Arrays | Path | None) -> tuple[Arrays | None, str]:
    """Return arrays by the name of their input, read from an .npz file where a path is given, and what to call them."""
    return (read_arrays(given), given.name) if isinstance(given, Path) else (given, "calibration data")


def fit_samples(array: NDArray[Any], spec: InputSpec, model: ir.Model, source: str) -> NDArray[Any]:
    """Return the samples of an input, (count, ...), in its element type.

    Raises:
        ConfigError: their shape, their type or their values are not what the network takes.

    """
    if array.shape[1:] != spec.shape[1:]:
        raise ConfigError(f"{source} for {spec.name!r} must be (samples, *{spec.shape[1:]}), got {array.shape}")
    fitting = _convert(array, spec, source)
    if np.issubdtype(spec.dtype, np.integer) and fitting.size:
        _require_rows(fitting, spec.name, model, source)
    return fitting


def _convert(array: NDArray[Any], spec: InputSpec, source: str) -> NDArray[Any]:
    """Change the element type where every value survives it; floats may be rounded."""
    what = f"{source}: {spec.name!r} wants {spec.dtype.name}"
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{what}, got {array.dtype.name}")
    with np.errstate(invalid="ignore", over="ignore"):
        converted = np.ascontiguousarray(array, dtype=spec.dtype)
    if np.issubdtype(spec.dtype, np.floating):
        lost = np.isnan(array) | (np.isfinite(array) & ~np.isfinite(converted))
    else:
        lost = converted != array
    if lost.any():
        raise ConfigError(f"{what}, got {array.dtype.name} values that it does not hold, such as {array[lost][0]}")
    return converted


def _require_rows(array: NDArray[Any], name: str, model: ir.Model, source: str) -> None:
    value = next((one for one in model.graph.inputs if one.name == name), None)
    for gather in _tables(value):
        table, axis = gather.inputs[0], gather.attributes.get_int("axis", 0)
        rows = table.shape[axis] if table is not None and table.shape is not None else None
        low, high = int(array.min()), int(array.max())
        if isinstance(rows, int) and not -rows <= low <= high < rows:
            wrong = high if high >= rows else low
            raise ConfigError(
                f"{source}: {name!r} holds {wrong}, and the table of {gather.name} has {rows} rows: wanted indices "
                f"from 0 to {rows - 1}"
            )


def _tables(value: ir.Value | None) -> Iterator[ir.Node]:
    """Yield the nodes that look the elements of a value up in a constant, the value itself or moved and cast."""
    pending = [value]
    while pending:
        source = pending.pop()
        for node, position in source.uses() if source is not None else ():
            if is_standard(node, "Gather") and position == 1:
                if node.inputs[0] is not None and node.inputs[0].const_value is not None:
                    yield node
            elif is_standard(node, "Cast", *DATA_MOVEMENT) and position == 0:
                pending += node.outputs
