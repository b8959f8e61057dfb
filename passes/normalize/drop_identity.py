"""Remove nodes that do nothing in inference: ``y = Identity(x)  ->  x``, Dropout likewise."""

import onnx_ir as ir

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.surgery import absorb, drop_unused, input_at, is_exposed

_OF_ONE = ("Sum", "Mean", "Max", "Min", "Concat")


class DropIdentity(NodePass):
    """Remove what passes its input on.

    1. Identity.
    2. Dropout outside training mode, if nobody reads its mask.
    3. Sum, Mean, Max, Min and Concat of one input.

    A node that makes a graph output gives the output's name to its input; where that is a graph input, an initializer
    or an output itself, the node stays, for their names belong to the user.
    """

    op_types = ("Identity", "Dropout", *_OF_ONE)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Remove the node if it passes its input on."""
        source, output = node.inputs[0], node.outputs[0]
        if source is None or not _passes_on(node):
            return False
        if output.is_graph_output():
            if is_exposed(source) or source.is_initializer():
                return False
            absorb(graph, node, source)
            return True
        inputs = tuple(node.inputs[1:])
        if source.shape is None:
            source.shape = output.shape
        output.replace_all_uses_with(source)
        graph.remove(node, safe=True)
        drop_unused(graph, inputs)
        return True


def _passes_on(node: ir.Node) -> bool:
    if node.op_type == "Dropout":
        training = input_at(node, 2)
        flag = constant_value(training)
        mask_read = any(output.uses() or output.is_graph_output() for output in node.outputs[1:])
        return not mask_read and (training is None or (flag is not None and not flag.any()))
    return node.op_type not in _OF_ONE or len(node.inputs) == 1
