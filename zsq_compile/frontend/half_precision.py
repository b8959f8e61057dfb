"""Take a model out of 16-bit floats: everything below works on float32, which holds their numbers exactly."""

from collections.abc import Iterator

import numpy as np
import onnx

_HALF: dict[int, str] = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}
# Attributes by which operators name the type of what they make or compute in.
_TYPE_NAMES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"})


def widen_halves(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Turn every float16 and bfloat16 tensor, type and conversion of a model into float32, in place.

    No number changes. What the model computes differs from before only by the roundings of 16-bit arithmetic, which are
    left out.

    Args:
        proto: with its external data in memory, its local functions inlined.

    Returns:
        What was done, in sentences for the user; none where the model has no such parts.

    """
    found: set[str] = set()
    faces = [
        value.name for value in (*proto.graph.input, *proto.graph.output) if value.type.tensor_type.elem_type in _HALF
    ]
    for graph in _graphs(proto.graph):
        for tensor in graph.initializer:
            _widen_tensor(tensor, found)
        for value in (*graph.input, *graph.output, *graph.value_info):
            _widen_type(value.type.tensor_type, found)
        for node in graph.node:
            for attribute in node.attribute:
                _widen_attribute(attribute, found)
    if not found:
        return ()
    told = (
        f"the file has parts in {' and '.join(sorted(found))}: they were taken as float32, which holds their numbers "
        "exactly, and the float model that is timed is that one"
    )
    if not faces:
        return (told,)
    names = ", ".join(repr(name) for name in faces)
    return told, f"what goes in and out as a 16-bit float becomes float32 in the quantized file: {names}"


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


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                yield from _graphs(inner)
