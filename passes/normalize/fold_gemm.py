"""Fold what Gemm does beside multiplying and adding: targets run ``A B + C``, with C one number for each column.

Gemm<alpha=a, beta=b>(A, B, C)  ->  Gemm(A, a B, b C)        B and C constant
Gemm<transA=1>(A, B, C)         ->  Gemm(Transpose(A), B, C)
Gemm(A, B, c), c () or (1, n)   ->  Gemm(A, B, (n,))
"""

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.surgery import drop_unused, free_name, input_at, set_constant
from passes.weight_layout import channel_count, constant_bias


class FoldGemm(NodePass):
    """Fold the factors into constants of float32, shared ones copied; a transposed B stays, for targets take it."""

    op_types = ("Gemm",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Fold alpha, beta and transA."""
        former = tuple(node.inputs[1:])
        changed = _weight(graph, node) | _bias(graph, node) | _transposition(graph, node)
        drop_unused(graph, former)
        return changed


def _weight(graph: ir.Graph, node: ir.Node) -> bool:
    alpha, weight = node.attributes.get_float("alpha", 1.0), constant_value(node.inputs[1])
    if alpha == 1.0 or weight is None or weight.dtype != np.float32:
        return False
    set_constant(graph, node, 1, (alpha * weight.astype(np.float64)).astype(np.float32), "weight")
    node.attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)
    return True


def _bias(graph: ir.Graph, node: ir.Node) -> bool:
    given, weight = input_at(node, 2), node.inputs[1]
    array = constant_value(given)
    beta = node.attributes.get_float("beta", 1.0)
    if beta == 1.0:
        return False
    if given is None:
        node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
        return True
    if array is None or array.dtype != np.float32:
        return False
    sizes = weight.shape.numpy() if weight is not None and weight.shape is not None and weight.shape.is_static() else ()
    row = constant_bias(node, channel_count(node, sizes)) if sizes else None
    if row is None:
        row = beta * array.astype(np.float64)  # one that differs from row to row
    set_constant(graph, node, 2, row.astype(np.float32), "bias")
    node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    return True


def _transposition(graph: ir.Graph, node: ir.Node) -> bool:
    data = node.inputs[0]
    if not node.attributes.get_int("transA", 0) or data is None:
        return False
    turn = ir.node("Transpose", [data], {"perm": [1, 0]}, name=f"{node.name}_transpose")
    turn.outputs[0].name, turn.outputs[0].type = free_name(graph, f"{node.name}_transposed"), data.type
    graph.insert_before(node, turn)
    node.replace_input_with(0, turn.outputs[0])
    node.attributes["transA"] = ir.AttrInt64("transA", 0)
    return True
