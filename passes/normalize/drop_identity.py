"""Remove nodes that do nothing when a network is used: ``y = Identity(x)  ->  x``, Dropout likewise."""

import onnx_ir as ir

from passes.constants import constant_value
from passes.surgery import absorb, drop_unused, is_exposed, is_standard


class DropIdentity(ir.passes.InPlacePass):
    """Remove what passes its input on.

    1. Identity.
    2. Dropout outside training mode, if nobody reads its mask.
    3. Sum, Mean, Max, Min and Concat of one input.

    A node that makes a graph output gives the output's name to its input; where that is a graph input, an initializer
    or an output itself, the node stays, for their names belong to the user.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visit all nodes once, in order, so that chains go in one run."""
        modified = False
        for node in list(model.graph):
            if _passes_on(node):
                modified |= _remove(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _passes_on(node: ir.Node) -> bool:
    if is_standard(node, "Dropout"):
        training = node.inputs[2] if len(node.inputs) > 2 else None
        flag = constant_value(training)
        mask_read = any(output.uses() or output.is_graph_output() for output in node.outputs[1:])
        return not mask_read and (training is None or (flag is not None and not flag.any()))
    return is_standard(node, "Identity") or (
        is_standard(node, "Sum", "Mean", "Max", "Min", "Concat") and len(node.inputs) == 1
    )


def _remove(graph: ir.Graph, node: ir.Node) -> bool:
    source, output = node.inputs[0], node.outputs[0]
    if source is None:
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
