"""Values of expressions that depend on nothing but constants, by ONNX's own reference implementation."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from passes.operators import RANDOM
from passes.surgery import has_subgraph, is_standard

_MAX_ELEMENTS = 1 << 26


def constant_value(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Value of a constant expression; None if it depends on a graph input, is random, or is too large to fold."""
    return _search(value, {})


def value_given(value: ir.Value | None, known: Mapping[ir.Value, NDArray[np.generic]]) -> NDArray[np.generic] | None:
    """Value of an expression of constants and of ``known`` values, which win; None if it depends on more."""
    return _search(value, dict(known))


def constant_number(value: ir.Value | None) -> float | None:
    """Return the one number that a constant expression holds, whatever its rank; None for anything else."""
    array = constant_value(value)
    return float(array.item()) if array is not None and array.size == 1 else None


def constant_axes(value: ir.Value | None, rank: int) -> tuple[int, ...] | None:
    """Return constant axes of a value of that rank, counted from the front, in order; None where they are computed."""
    axes = constant_value(value)
    return None if axes is None else tuple(sorted(int(axis) % rank for axis in axes.reshape(-1)))


def _search(value: ir.Value | None, known: dict[ir.Value, NDArray[np.generic] | None]) -> NDArray[np.generic] | None:
    # with a memory: in a residual network the paths back to the input are too many to walk one by one
    if value is None:
        return None
    if value in known:
        return known[value]
    if value.const_value is not None:
        return value.const_value.numpy()
    known[value] = None
    node = value.producer()
    if node is None or not _foldable(node):
        return None
    inputs: list[NDArray[np.generic] | None] = []
    for source in node.inputs:
        array = _search(source, known)
        if source is not None and array is None:
            return None
        inputs.append(array)
    for output, array in zip(node.outputs, _evaluate(node, inputs), strict=True):
        known[output] = array
    return known[value]


def _foldable(node: ir.Node) -> bool:
    if not is_standard(node, node.op_type) or node.op_type in RANDOM or not node.outputs or has_subgraph(node):
        return False
    return all(_size(output) <= _MAX_ELEMENTS for output in node.outputs)


def _size(value: ir.Value) -> int:
    shape = value.shape
    return int(np.prod(shape.numpy(), dtype=np.int64)) if shape is not None and shape.is_static() else 0


def _evaluate(node: ir.Node, inputs: list[NDArray[np.generic] | None]) -> list[NDArray[np.generic]]:
    imports = node.graph.opset_imports if node.graph is not None else {}
    version = node.version or imports.get("") or onnx.defs.onnx_opset_version()
    outputs = [f"o{position}" if output.name else "" for position, output in enumerate(node.outputs)]
    given = {f"i{position}": array for position, array in enumerate(inputs) if array is not None}
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(f"i{position}" if array is not None else "" for position, array in enumerate(inputs))
    proto.output.extend(outputs)
    helper = onnx.helper
    fed = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape))
        for name, array in given.items()
    ]
    made = [onnx.ValueInfoProto(name=name) for name in outputs if name]
    graph = helper.make_graph([proto], "constant", fed, made)
    single = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    results = iter(ReferenceEvaluator(single).run(None, given))
    return [np.asarray(next(results)) if name else np.empty(0) for name in outputs]
