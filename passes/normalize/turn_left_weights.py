"""Write MatMul with its weight on the left as a layer that targets run: they take weights on the right only.

MatMul(w, x), x (N, K, L)  ->  Conv(x, w as (M, K, 1))
MatMul(w, x), x (K, L)     ->  Squeeze(Conv(Unsqueeze(x), w as (M, K, 1)))
MatMul(w, x), x of more    ->  Transpose(MatMul(Transpose(x), transposed w))
"""

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.surgery import add_constant, drop_unused, free_name, put_behind

_AXIS = np.array([0], np.int64)


class TurnLeftWeights(NodePass):
    """Turn products of a constant matrix, (M, K) or with axes of size 1 in front, and a value of known rank."""

    op_types = ("MatMul",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Replace the product."""
        left, data = node.inputs
        weight = constant_value(left)
        if weight is None or data is None or data.shape is None or constant_value(data) is not None:
            return False
        rank = len(data.shape)
        if weight.dtype != np.float32 or weight.ndim < 2 or weight.ndim > max(rank, 2) or rank < 2:
            return False
        if any(size != 1 for size in weight.shape[:-2]):
            return False
        matrix = weight.reshape(weight.shape[-2:])
        if rank > 3:
            _transpose(graph, node, data, matrix)
        else:
            _convolve(graph, node, data, matrix)
        drop_unused(graph, [left])
        return True


def _convolve(graph: ir.Graph, node: ir.Node, data: ir.Value, matrix: np.ndarray) -> None:
    kernel = add_constant(graph, f"{node.name}.weight", matrix[:, :, None])
    flat = data.shape is not None and len(data.shape) == 2
    if flat:
        data = _in_front(graph, node, "Unsqueeze", [data, add_constant(graph, f"{node.name}.axis", _AXIS)], {})
    node.op_type = "Conv"
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [1])
    node.replace_input_with(0, data)
    node.replace_input_with(1, kernel)
    if flat:
        _behind(graph, node, "Squeeze", [add_constant(graph, f"{node.name}.axis", _AXIS)], {})


def _transpose(graph: ir.Graph, node: ir.Node, data: ir.Value, matrix: np.ndarray) -> None:
    assert data.shape is not None
    rank = len(data.shape)
    order = {"perm": [*range(rank - 2), rank - 1, rank - 2]}
    node.replace_input_with(0, _in_front(graph, node, "Transpose", [data], order))
    node.replace_input_with(1, add_constant(graph, f"{node.name}.weight", matrix.T))
    _behind(graph, node, "Transpose", [], order)


def _in_front(
    graph: ir.Graph, node: ir.Node, op_type: str, inputs: list[ir.Value], attributes: dict[str, list[int]]
) -> ir.Value:
    made = ir.node(op_type, inputs, attributes, name=f"{node.name}_{op_type.lower()}")
    made.outputs[0].name, made.outputs[0].type = free_name(graph, f"{made.name}d"), inputs[0].type
    graph.insert_before(node, made)
    return made.outputs[0]


def _behind(
    graph: ir.Graph, node: ir.Node, op_type: str, inputs: list[ir.Value], attributes: dict[str, list[int]]
) -> None:
    """Put a node behind another, which takes over the name and the readers of its output."""
    former = node.outputs[0]
    made = ir.node(op_type, [former, *inputs], attributes, name=f"{node.name}_{op_type.lower()}_back")
    put_behind(graph, made, f"{former.name}_turned")
    former.shape = None
