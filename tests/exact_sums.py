"""Let ONNX Runtime add int8 products exactly on processors that have no VNNI.

Without it, AVX2 kernels add pairs of products of uint8 and int8 in 16 bits, which saturate (see ort_cpu_avx2.toml), and
what tests compare with a simulation is not what the file says. The same weights as uint8, moved by 128 with their zero
point, go through kernels that do not saturate. Values, scales and fusions are those of the file.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

_MIDDLE = 128
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Transpose", "Reshape")  # and what weights pass on the way
_WEIGHTS = {  # positions of weights and of their zero point
    "DequantizeLinear": (0, 2),
    "QLinearConv": (3, 5),
    "QLinearMatMul": (3, 5),
    "QGemm": (3, 5),
    "ConvInteger": (1, 3),
    "MatMulInteger": (1, 3),
}


class ExactSession(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session whose int8 weights are uint8 ones."""

    def __init__(self, model: Any, *args: Any, **options: Any) -> None:
        super().__init__(_exact(model), *args, **options)


def _exact(given: Any) -> Any:
    """Return the bytes of a model with other weights, or what was given where there are none."""
    try:
        model = onnx.load_from_string(given) if isinstance(given, bytes) else onnx.load(given)
    except Exception:  # what cannot be read is refused by the runtime, in its own words
        return given
    if _has_signed_activations(model.graph):  # whose kernels want signed weights
        return given
    moved = [_move(node, number, model.graph) for number, node in enumerate(list(model.graph.node))]
    return model.SerializeToString() if any(moved) else given


def _has_signed_activations(graph: onnx.GraphProto) -> bool:
    types = {one.name: one.data_type for one in graph.initializer}
    zeros = [node.input[2] for node in graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2]
    return any(types.get(name) == onnx.TensorProto.INT8 for name in zeros)


def _move(node: onnx.NodeProto, number: int, graph: onnx.GraphProto) -> bool:
    """Let a node read its int8 weights as uint8 ones."""
    if node.op_type not in _WEIGHTS:
        return False
    weights, zero = _WEIGHTS[node.op_type]
    constants = {one.name: one for one in graph.initializer}
    tensor = constants.get(node.input[weights])
    if tensor is None or tensor.data_type != onnx.TensorProto.INT8 or len(tensor.dims) < 2:
        return False
    readers = [one.op_type for one in graph.node if node.output[0] in one.input]
    if node.op_type == "DequantizeLinear" and not set(readers) <= set(_LAYERS):
        return False
    middle = _zero_point(node, zero, constants)
    if middle is None:
        return False
    names = f"{tensor.name}/moved", f"{tensor.name}/zero{number}"
    node.input.extend([""] * (zero + 1 - len(node.input)))
    node.input[weights], node.input[zero] = names
    for name, array in zip(names, (numpy_helper.to_array(tensor), middle), strict=True):
        if name not in constants:
            codes = (array.astype(np.int16) + _MIDDLE).astype(np.uint8)
            graph.initializer.append(numpy_helper.from_array(codes, name))
    return True


def _zero_point(node: onnx.NodeProto, position: int, constants: Mapping[str, onnx.TensorProto]) -> NDArray[Any] | None:
    """Zero point of a node's weights; None where it is computed."""
    name = node.input[position] if len(node.input) > position else ""
    if name:
        return numpy_helper.to_array(constants[name]) if name in constants else None
    if node.op_type != "DequantizeLinear":
        return np.zeros((), np.int8)
    scale = constants.get(node.input[1])
    return None if scale is None else np.zeros(tuple(scale.dims), np.int8)
