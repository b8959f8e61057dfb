"""Write operators that a target runs slowly, or not in integers, with others that compute the same.

    ConvTranspose(x, w), kernel = strides  ->  DepthToSpace(Conv(x, w as 1 x 1))     Relu and Clip go in front
    PRelu(x, s)                            ->  Max(x, s x), or x - (1 - s) Min(x, 0) where an s is more than 1
    Mish(x)                                ->  x - 2 x / ((Exp(Min(x, 20)) + 1)² + 1)

Which of them pay is for the target to say (``Target.in_parts``). BatchNormalization must have been folded before.
"""

import numpy as np
import onnx_ir as ir

from backends.target import Target
from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.surgery import (
    add_constant,
    drop_unused,
    free_name,
    free_node_name,
    input_at,
    is_standard,
    only_use,
    set_constant,
    take_over,
)

_ENOUGH = 20.0  # in float32, Mish(x) = x from 10 on; e^20 squared is far from the largest number


class WriteInParts(NodePass):
    """Rewrite the operators that ``target`` names, where that is exact up to rounding."""

    op_types = ("ConvTranspose", "PRelu", "Mish")

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._wanted = target.in_parts

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Rewrite a node."""
        if node.op_type not in self._wanted:
            return False
        if node.op_type == "PRelu":
            return _prelu(graph, node)
        return _mish(graph, node) if node.op_type == "Mish" else _shuffled(graph, node)


def _prelu(graph: ir.Graph, node: ir.Node) -> bool:
    source, slope = node.inputs
    given = constant_value(slope)
    if source is None or slope is None or given is None:
        return False
    slopes = given.astype(np.float64)
    if (slopes <= 1.0).all():
        product = _inserted(graph, node, "Mul", [source, slope])
        node.op_type = "Max"
    else:
        zero = add_constant(graph, f"{node.name}.zero", np.zeros((), np.float32))
        gap = add_constant(graph, f"{node.name}.gap", (1.0 - slopes).astype(np.float32))
        product = _inserted(graph, node, "Mul", [_inserted(graph, node, "Min", [source, zero]), gap])
        node.op_type = "Sub"
    node.replace_input_with(1, product)
    drop_unused(graph, [slope])
    return True


def _mish(graph: ir.Graph, node: ir.Node) -> bool:
    source = node.inputs[0]
    assert source is not None
    limit, one, two = (
        add_constant(graph, f"{node.name}.{kind}", np.array(number, np.float32))
        for kind, number in (("limit", _ENOUGH), ("one", 1.0), ("two", 2.0))
    )
    power = _inserted(graph, node, "Exp", [_inserted(graph, node, "Min", [source, limit])])
    square = _inserted(graph, node, "Pow", [_inserted(graph, node, "Add", [power, one]), two])
    twice, divisor = _inserted(graph, node, "Mul", [source, two]), _inserted(graph, node, "Add", [square, one])
    node.op_type = "Sub"
    node.resize_inputs(2)
    node.replace_input_with(1, _inserted(graph, node, "Div", [twice, divisor]))
    return True


def _inserted(graph: ir.Graph, before: ir.Node, op_type: str, inputs: list[ir.Value]) -> ir.Value:
    """Put a node in front of another, which makes a value of the same shape and type."""
    name = free_name(graph, f"{before.outputs[0].name}_{op_type.lower()}")
    made = ir.node(op_type, inputs, name=free_node_name(graph, name))
    value = made.outputs[0]
    value.name, value.type, value.shape = name, before.outputs[0].type, before.outputs[0].shape
    graph.insert_before(before, made)
    return value


def _shuffled(graph: ir.Graph, node: ir.Node) -> bool:
    """Make a convolution of one tap of a ConvTranspose: every input pixel makes a block of outputs by itself."""
    weight, step = constant_value(node.inputs[1]), _block(node)
    shape = node.outputs[0].shape
    if weight is None or step is None or shape is None:
        return False
    bias = input_at(node, 2)
    numbers = None if bias is None else constant_value(bias)
    if bias is not None and numbers is None:
        return False
    groups = node.attributes.get_int("group", 1)
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    # (groups, in, out, taps) -> (groups, out, taps, in): the order in which DepthToSpace reads its channels
    turned = weight.reshape(groups, inputs, outputs, step * step).transpose(0, 2, 3, 1)
    set_constant(graph, node, 1, turned.reshape(groups * outputs * step * step, inputs, 1, 1), "weight")
    if numbers is not None:
        set_constant(graph, node, 2, np.repeat(numbers, step * step), "bias")
        drop_unused(graph, [bias])
    node.op_type = "Conv"
    node.attributes.clear()
    node.attributes["group"] = ir.AttrInt64("group", groups)
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [1, 1])
    last = _activation_behind(node)
    spread = ir.node(
        "DepthToSpace", [], {"blocksize": step, "mode": "CRD"}, name=free_node_name(graph, f"{node.name}_spread")
    )
    graph.insert_after(last, spread)
    value = spread.outputs[0]
    value.type, value.shape = last.outputs[0].type, last.outputs[0].shape
    former = last.outputs[0]
    take_over(former, value)
    spread.resize_inputs(1)
    spread.replace_input_with(0, former)
    deep = [shape[0], groups * outputs * step * step, *(_divided(size, step) for size in list(shape)[2:])]
    for made in dict.fromkeys((node.outputs[0], former)):
        # what is known of a value by its name, as moments of channels, does not hold for it any more
        made.name, made.shape = free_name(graph, f"{value.name}_deep"), ir.Shape(deep)
    return True


def _divided(size: int | ir.SymbolicDim, step: int) -> int | None:
    return size // step if isinstance(size, int) else None


def _block(node: ir.Node) -> int | None:
    """Side of the square of pixels that every input pixel makes; None where these overlap, lie apart or are cut."""
    weight = constant_value(node.inputs[1])
    if weight is None or weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] < 2:
        return None
    ints, side = node.attributes.get_ints, weight.shape[2]
    plain = not any(ints("pads", [])) and not any(ints("output_padding", [])) and "output_shape" not in node.attributes
    plain &= all(step == 1 for step in ints("dilations", []))
    plain &= node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return side if plain and list(ints("strides", [1, 1])) == [side, side] else None


def _activation_behind(node: ir.Node) -> ir.Node:
    """Return the Relu or Clip that alone reads a node, which goes on reading it, or the node itself."""
    use = only_use(node.outputs[0])
    return use[0] if use is not None and use[1] == 0 and is_standard(use[0], "Relu", "Clip") else node
