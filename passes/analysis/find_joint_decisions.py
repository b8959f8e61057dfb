"""Find out whether control flow decides for a batch as a whole, so that a sample depends on those beside it."""

import onnx_ir as ir

from passes.operators import BODY_DOMAIN
from passes.surgery import inner_nodes, is_standard

_SIZES = ("Shape", "Size")
_DECIDING = ("If", "Loop")


def decides_jointly(model: ir.Model) -> bool:
    """Whether an outlined If takes its branch, or a Loop ends, by numbers that are computed from the inputs.

    Sizes of inputs are no such numbers, and a Loop that ends by its count alone treats all samples alike.
    """
    computed = {value for value in model.graph.inputs if not value.is_initializer()}
    for node in model.graph:
        if is_standard(node, *_SIZES) or computed.isdisjoint(node.inputs):
            continue
        computed.update(node.outputs)
        if node.domain == BODY_DOMAIN:
            function = model.functions[node.op_identifier()]
            formals = zip(function.inputs, node.inputs, strict=True)
            if _depends(function[0], {formal for formal, actual in formals if actual in computed}):
                return True
    return False


def _depends(node: ir.Node, computed: set[ir.Value]) -> bool:
    if any(is_standard(inner, *_DECIDING) for inner in inner_nodes(node)):
        return True
    if node.op_type == "Scan":
        return False
    if node.op_type == "Loop":
        return not computed.isdisjoint(node.inputs[:2]) or not _goes_on(node.attributes["body"].as_graph())
    return node.inputs[0] in computed


def _goes_on(body: ir.Graph) -> bool:
    """Whether the body of a Loop hands its condition on as it is, or a constant."""
    value = body.outputs[0]
    while (
        (node := value.producer()) is not None and is_standard(node, "Identity", "Cast") and node.inputs[0] is not None
    ):
        value = node.inputs[0]
    return value in body.inputs or value.is_initializer() or (node is not None and is_standard(node, "Constant"))
