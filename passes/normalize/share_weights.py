"""Give layers that read a weight in the same way one initializer, and layers of different weights a bias of their own.

    Conv(x, w), Conv(y, w)             ->  Conv(x, w), Conv(y, w)
    Conv(x, w), Conv(y, v)             ->  Conv(x, w), Conv(y, w)     v equal to w, to the bit
    Gemm(x, w), Gemm(y, w, transB=1)   ->  Gemm(x, w'), Gemm(y, w, transB=1)     w' a copy of w
    Conv(x, w, b), Conv(y, v, b)       ->  Conv(x, w, b'), Conv(y, v, b)

What unrolled steps, siamese branches or the heads of several levels share is rounded once, and stored once. Passes that
change the weight of one layer alone write it a copy (``surgery.set_constant``).
"""

import zlib
from collections.abc import Hashable, Sequence

import onnx_ir as ir

from passes.graph_pass import GraphPass
from passes.operators import CONVOLUTIONS, WEIGHTED
from passes.surgery import add_constant, drop_unused, input_at, is_standard, set_input, standard_nodes
from passes.weight_layout import channel_axis, channel_count

_LEAST_MERGED = 256  # elements; what smaller weights would save is not worth one grid for two layers
_BIAS_BYTES = 4
_BIAS_SHARE = 8  # biases that take more than an eighth of their weight's codes are shared as well


class ShareWeights(GraphPass):
    """Merge constants of layers that are equal, and copy those that layers cannot share.

    1. Layers share a weight if their channels lie along the same axis of it, in as many groups.
    2. They share a bias if they share the weight, and copies of the bias would take much of its room.
    3. Readers that are no layers always keep the initializer, and so does a graph output; else the last reader does.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Share and copy."""
        layers = standard_nodes(model.graph, *WEIGHTED)
        modified = False
        for position, kind in ((1, "weight"), (2, "bias")):
            modified |= _merge_equal(model.graph, layers, position)
            for value in dict.fromkeys(input_at(node, position) for node in layers):
                if value is not None and value.is_initializer() and value.const_value is not None:
                    modified |= _separate(model.graph, value, position, kind)
        return ir.passes.PassResult(model, modified)


def _merge_equal(graph: ir.Graph, layers: Sequence[ir.Node], position: int) -> bool:
    """Let layers that may share a constant read the first one of equal ones."""
    first: dict[Hashable, ir.Value] = {}
    modified = False
    for node in layers:
        value, reading = input_at(node, position), _reading(node, position)
        if value is None or value.const_value is None or reading is node:
            continue
        if position == 1 and value.const_value.size < _LEAST_MERGED:
            continue
        bits = value.const_value.tobytes()
        looks = (value.dtype, tuple(value.const_value.shape), zlib.crc32(bits))
        kept = first.setdefault((reading, *looks), value)
        if kept is not value and kept.const_value is not None and kept.const_value.tobytes() == bits:
            set_input(node, position, kept)
            drop_unused(graph, [value])
            modified = True
    return modified


def _separate(graph: ir.Graph, value: ir.Value, position: int, kind: str) -> bool:
    """Copy a constant for each way in which it is read but one; return whether there are several."""
    readers: dict[Hashable, list[ir.Node]] = {}
    others = value.is_graph_output()
    for node, place in value.uses():
        if place == position and is_standard(node, *WEIGHTED):
            readers.setdefault(_reading(node, position), []).append(node)
        else:
            others = True
    copied = list(readers.values()) if others else list(readers.values())[:-1]
    assert value.const_value is not None
    for nodes in copied:
        copy = add_constant(graph, f"{nodes[0].name}.{kind}", value.const_value.numpy())
        for node in nodes:
            node.replace_input_with(position, copy)
    return bool(copied)


def _reading(node: ir.Node, position: int) -> Hashable:
    """Return what layers that share a constant have in common; the node itself where it shares none."""
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return node
    shape = weight.const_value.shape.numpy()
    if position == 2:
        count = len({use.node for use in weight.uses()})
        columns = weight.const_value.size // max(channel_count(node, shape), 1)
        return weight if count > 1 and _BIAS_SHARE * _BIAS_BYTES * count > columns else node
    groups = node.attributes.get_int("group", 1) if node.op_type in CONVOLUTIONS else 1
    return node.op_type in CONVOLUTIONS, channel_axis(node, len(shape)), groups
