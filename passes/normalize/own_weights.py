"""Give every layer a weight and a bias of its own.

    Conv(x, w), Conv(y, w)  ->  Conv(x, w), Conv(y, w')      w' a copy of w

Layers that share a weight differ in the scales of their inputs, so folding, equalizing and quantizing treat them apart.
"""

import onnx_ir as ir

from passes.graph_pass import NodePass
from passes.operators import WEIGHTED
from passes.surgery import add_constant, input_at


class OwnWeights(NodePass):
    """Copy an initializer that several inputs read for each layer that reads it as weight or bias.

    The last reader keeps the initializer itself, unless it is a graph output; readers that are no layers always keep
    it.
    """

    op_types = WEIGHTED

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Copy what the layer shares."""
        modified = False
        for position, kind in ((1, "weight"), (2, "bias")):
            value = input_at(node, position)
            if value is not None and value.const_value is not None and _is_shared(value):
                copy = add_constant(graph, f"{node.name}.{kind}", value.const_value.numpy())
                node.replace_input_with(position, copy)
                modified = True
        return modified


def _is_shared(value: ir.Value) -> bool:
    return value.is_initializer() and (len(value.uses()) > 1 or value.is_graph_output())
