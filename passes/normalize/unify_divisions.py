"""Write every product with a reciprocal as a division.

    Mul(x, Reciprocal(s))            ->  Div(x, s)
    Mul(x, Div(1, s))                ->  Div(x, s)
    Mul(x, Pow(v, -0.5))             ->  Div(x, Sqrt(v))
    Mul(x, Mul(Reciprocal(s), g))    ->  Mul(Div(x, s), g)     g constant

A reciprocal spans decades where what it divides varies little: 8 bits are too few for it, and a division stays float.
"""

import onnx_ir as ir

from passes.constants import constant_number, constant_value
from passes.graph_pass import NodePass
from passes.surgery import free_name, is_standard, only_use


class UnifyDivisions(NodePass):
    """Divide instead of multiplying with a reciprocal that nobody else reads."""

    op_types = ("Mul",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Replace the product."""
        for position, value in enumerate(node.inputs):
            other = node.inputs[1 - position]
            if value is None or other is None or only_use(value) is None or constant_value(other) is not None:
                continue
            divisor = divided_by(value)
            if divisor is not None and constant_value(divisor[0]) is None:
                _divide(graph, node, other, *divisor)
                return True
        return False


def divided_by(value: ir.Value | None) -> tuple[ir.Value, ir.Value | None, bool] | None:
    """For a value 1 / s, 1 / sqrt(v), or one of them times a constant g: s or v, g, and whether there is a root."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    first, second = (*node.inputs, None)[:2]
    if first is None:
        return None
    if is_standard(node, "Reciprocal"):
        return first, None, False
    if is_standard(node, "Div") and second is not None and constant_number(first) == 1.0:
        return second, None, False
    if is_standard(node, "Pow") and constant_number(second) == -0.5:
        return first, None, True
    if is_standard(node, "Mul"):
        for one, factor in ((first, second), (second, first)):
            found = divided_by(one) if factor is not None and constant_value(factor) is not None else None
            if found is not None and found[1] is None:
                return found[0], factor, found[2]
    return None


def _divide(
    graph: ir.Graph, node: ir.Node, dividend: ir.Value, divisor: ir.Value, factor: ir.Value | None, rooted: bool
) -> None:
    """Make the node divide; the factor goes behind, and the node goes on making the same value."""
    output = node.outputs[0]
    if rooted:
        divisor = _inserted(graph, node, "Sqrt", [divisor], f"{output.name}_root", divisor)
    if factor is None:
        node.op_type = "Div"
        node.replace_input_with(0, dividend)
        node.replace_input_with(1, divisor)
    else:
        quotient = _inserted(graph, node, "Div", [dividend, divisor], f"{output.name}_divided", dividend)
        node.replace_input_with(0, quotient)
        node.replace_input_with(1, factor)


def _inserted(
    graph: ir.Graph, before: ir.Node, op_type: str, inputs: list[ir.Value], name: str, like: ir.Value
) -> ir.Value:
    made = ir.node(op_type, inputs, name=name)
    made.outputs[0].name, made.outputs[0].type = free_name(graph, name), like.type
    graph.insert_before(before, made)
    return made.outputs[0]
