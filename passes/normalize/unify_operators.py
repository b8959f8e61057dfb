"""Replace operators by others of the same meaning, so that later passes and targets have fewer to know.

ReduceMean(x, all spatial axes, keepdims=1)  ->  GlobalAveragePool(x)
ReduceMean(x, all spatial axes, keepdims=0)  ->  Flatten(GlobalAveragePool(x))
Sum(a, b, c)                                 ->  Add(Add(a, b), c)
CastLike(x, y)                               ->  Cast(x, to=type of y)
"""

import onnx_ir as ir

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.surgery import free_name, input_at


class UnifyOperators(NodePass):
    """Apply the rules above; ReduceMean needs constant axes and an input of known rank, 3 or more."""

    op_types = ("ReduceMean", "Sum", "CastLike")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Replace the node."""
        if node.op_type == "ReduceMean":
            return _pool(graph, node)
        return _add(graph, node) if node.op_type == "Sum" else _cast(node)


def _pool(graph: ir.Graph, node: ir.Node) -> bool:
    source, axes = node.inputs[0], constant_value(input_at(node, 1))
    if source is None or source.shape is None or axes is None or len(source.shape) < 3:
        return False
    rank = len(source.shape)
    if sorted(int(axis) % rank for axis in axes.reshape(-1)) != list(range(2, rank)):
        return False
    keep = node.attributes.get_int("keepdims", 1)
    node.op_type = "GlobalAveragePool"
    node.attributes.clear()
    node.resize_inputs(1)
    if not keep:
        _flatten(graph, node, rank)
    return True


def _flatten(graph: ir.Graph, node: ir.Node, rank: int) -> None:
    """Put a Flatten behind the pooling, which takes over the name and readers of its output."""
    pooled = node.outputs[0]
    flatten = ir.node("Flatten", [pooled], {"axis": 1}, name=f"{node.name}_flatten")
    graph.insert_after(node, flatten)
    flat = flatten.outputs[0]
    flat.shape, flat.type = pooled.shape, pooled.type
    pooled.replace_all_uses_with(flat, replace_graph_outputs=True)
    flatten.replace_input_with(0, pooled)
    flat.name, pooled.name = pooled.name, free_name(graph, f"{pooled.name}_pooled")
    if flat.shape is not None:
        pooled.shape = ir.Shape([*list(flat.shape)[:2], *[1] * (rank - 2)])


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
