"""Loading as ``inspect`` does it, and the inputs that a graph declares."""

from functools import partial

import numpy as np
import onnx

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.frontend.batch_axes import find_batch_axes
from zsq_compile.frontend.load import load_model

load_quickly = partial(load_model, simplify=False, verify=False)


def declared_inputs(proto: onnx.ModelProto) -> tuple[InputSpec, ...]:
    """Inputs of a graph that are no weights, with their batch axes."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    declared = [
        InputSpec(
            name=value.name,
            shape=tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim),
            dtype=np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        )
        for value in proto.graph.input
        if value.name not in weights
    ]
    return find_batch_axes(proto, declared)
