"""Describe the outputs of a network from its graph, before anything has run."""

import onnx_ir as ir

from passes.analysis.find_uneven_values import find_uneven_values
from zsq_compile.metrics import Output


def declared_outputs(model: ir.Model, *, unknown: int) -> dict[str, Output]:
    """Describe outputs by name as far as their shapes are known, without those whose size depends on the data.

    ``unknown`` stands for sizes that are open; see ``metrics.Output``.
    """
    uneven = find_uneven_values(model)
    return {
        str(value.name): Output(
            tuple(size if isinstance(size, int) else unknown for size in value.shape),
            value.dtype is not None and value.dtype.is_floating_point(),
        )
        for value in model.graph.outputs
        if value.shape is not None and value.name not in uneven
    }
