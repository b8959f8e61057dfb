"""Check samples that the user brought against the inputs of the network, before anything is computed with them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.operators import DATA_MOVEMENT
from passes.surgery import is_standard
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.layouts import convert
from zsq_compile.errors import ConfigError


def fit_samples(array: NDArray[Any], spec: InputSpec, model: ir.Model, source: str) -> NDArray[Any]:
    """Return the samples of an input, (count, ...), in its element type.

    Raises:
        ConfigError: their shape, their type or their values are not what the network takes.

    """
    if array.shape[1:] != spec.shape[1:]:
        raise ConfigError(f"{source} for {spec.name!r} must be (samples, *{spec.shape[1:]}), got {array.shape}")
    fitting = convert(array, spec, source)
    if np.issubdtype(spec.dtype, np.integer) and fitting.size:
        _require_rows(fitting, spec.name, model, source)
    return fitting


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
