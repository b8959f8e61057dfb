"""Convert 16-bit floats to float32, which represents them exactly and is all that later stages handle."""

import numpy as np
import onnx

from zsq_compile.frontend.read_onnx import walk_graphs

_HALF: dict[int, str] = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}
# Attributes by which operators name the type of their result or of their arithmetic.
_TYPE_NAMES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"})


def widen_halves(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Turn every float16 and bfloat16 tensor, type and conversion of a model into float32, in place.

    Values stay the same; only the rounding of 16-bit arithmetic goes.

    Args:
        proto: with its external data in memory, its local functions inlined.

    Returns:
        Notes for the user; none where the model has no such parts.

    """
    found: set[str] = set()
    public = [
        value.name for value in (*proto.graph.input, *proto.graph.output) if value.type.tensor_type.elem_type in _HALF
    ]
    for graph in walk_graphs(proto.graph):
        for tensor in graph.initializer:
            _widen_tensor(tensor, found)
        for value in (*graph.input, *graph.output, *graph.value_info):
            _widen_type(value.type.tensor_type, found)
        for node in graph.node:
            for attribute in node.attribute:
                _widen_attribute(attribute, found)
    if not found:
        return ()
    note = (
        f"the file has parts in {' and '.join(sorted(found))}: they were converted to float32, without loss, and the "
        "float model that is timed is the converted one"
    )
    if not public:
        return (note,)
    names = ", ".join(repr(name) for name in public)
    return note, f"16-bit inputs and outputs become float32 in the quantized file: {names}"


def _widen_tensor(tensor: onnx.TensorProto, found: set[str]) -> None:
    if tensor.data_type in _HALF:
        found.add(_HALF[tensor.data_type])
        numbers = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor.name))


def _widen_type(tensor: onnx.TypeProto.Tensor, found: set[str]) -> None:
    if tensor.elem_type in _HALF:
        found.add(_HALF[tensor.elem_type])
        tensor.elem_type = onnx.TensorProto.FLOAT


def _widen_attribute(attribute: onnx.AttributeProto, found: set[str]) -> None:
    if attribute.type == onnx.AttributeProto.TENSOR:
        _widen_tensor(attribute.t, found)
    elif attribute.type == onnx.AttributeProto.INT and attribute.name in _TYPE_NAMES and attribute.i in _HALF:
        found.add(_HALF[attribute.i])
        attribute.i = onnx.TensorProto.FLOAT
