"""Replace operators by others of the same meaning, so that later passes and targets have fewer to know.

Sum(a, b, c)    ->  Add(Add(a, b), c)
CastLike(x, y)  ->  Cast(x, to=type of y)
"""

import onnx_ir as ir

from passes.graph_pass import NodePass
from passes.surgery import free_name


class UnifyOperators(NodePass):
    """Apply the rules above."""

    op_types = ("Sum", "CastLike")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Replace the node."""
        return _add(graph, node) if node.op_type == "Sum" else _cast(node)


def _add(graph: ir.Graph, node: ir.Node) -> bool:
    """Use the node for the last addition, so that it goes on making the same value."""
    if len(node.inputs) < 2:
        return False
    total, *middle, last = node.inputs
    for position, value in enumerate(middle):
        partial = ir.node("Add", [total, value], name=f"{node.name}_{position}")
        partial.outputs[0].name = free_name(graph, f"{node.outputs[0].name}_{position}")
        partial.outputs[0].type = node.outputs[0].type
        graph.insert_before(node, partial)
        total = partial.outputs[0]
    node.op_type = "Add"
    node.resize_inputs(2)
    node.replace_input_with(0, total)
    node.replace_input_with(1, last)
    return True


def _cast(node: ir.Node) -> bool:
    like = node.inputs[1]
    if like is None or like.dtype is None:
        return False
    node.op_type = "Cast"
    node.attributes["to"] = ir.AttrInt64("to", int(like.dtype))
    node.resize_inputs(1)
    return True
