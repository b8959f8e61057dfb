"""Decide an If whose condition is constant: If(true) {a} {b}  ->  a."""

import onnx_ir as ir

from passes.constants import constant_value
from passes.operators import BODY_DOMAIN


def decide_branches(model: ir.Model) -> bool:
    """Leave only the branch that is taken in each outlined If, in place; return whether there was any to decide."""
    modified = False
    for call in model.graph:
        if call.domain != BODY_DOMAIN or call.op_type != "If":
            continue
        function = model.functions[call.op_identifier()]
        formal = function[0].inputs[0]
        places = [place for place, value in enumerate(function.inputs) if value is formal]
        condition = constant_value(call.inputs[places[0]])
        if condition is not None:
            _take(function, "then_branch" if condition.any() else "else_branch")
            modified = True
    return modified


def _take(function: ir.Function, branch: str) -> None:
    """Put the nodes of a branch in the place of the If that holds it."""
    node = function[0]
    body = node.attributes[branch].as_graph()
    for name, value in list(body.initializers.items()):
        constant = ir.node("Constant", [], attributes={"value": value.const_value}, name=f"{name}_Constant")
        constant.outputs[0].name = name
        value.replace_all_uses_with(constant.outputs[0], replace_graph_outputs=True)
        function.insert_before(node, constant)
    inner, outputs = list(body), list(body.outputs)
    body.outputs.clear()
    for one in inner:
        body.remove(one)
        function.insert_before(node, one)
    for place, value in enumerate(outputs):
        function.outputs[place] = value
    function.remove(node)
