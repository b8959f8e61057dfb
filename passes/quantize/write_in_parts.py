"""Write operators that a target runs slowly, or not in integers, with others that compute the same.

    ConvTranspose(x, w), strides s         ->  Slice(DepthToSpace(Conv(x, s² filters for each output)))
    PRelu(x, s)                            ->  Max(x, s x), or x - (1 - s) Min(x, 0) where an s is more than 1
    Mish(x)                                ->  x - 2 x / ((Exp(Min(x, 20)) + 1)² + 1)

Which of them pay is for the target to say (``Target.in_parts``). BatchNormalization must have been folded before.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from backends.target import Target
from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.operators import REARRANGING
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

_SQUASHING = ("Relu", "Clip", "Sigmoid", "Tanh", "Softmax")
_LEAST = 16  # input channels of a group
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
    """Let a convolution make all outputs of a block of s x s pixels as channels, and spread them.

    y[q s + r] is the sum over t of x[q - t] w[t s + r], so r of every axis chooses a filter over the taps t, reversed.
    """
    form = _Shuffle.of(node)
    weight, bias = constant_value(node.inputs[1]), input_at(node, 2)
    numbers = None if bias is None else constant_value(bias)
    if form is None or weight is None or (bias is not None and numbers is None):
        return False
    step, taps, groups = form.step, form.taps, node.attributes.get_int("group", 1)
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    if (groups > 1 and inputs < _LEAST) or _leads_out(node.outputs[0]):
        return False  # integer kernels are slow at small groups, and in front of an output it runs in float anyway
    rest = [(0, count * step - size) for count, size in zip(taps, weight.shape[2:], strict=True)]
    parts = np.pad(weight, [(0, 0), (0, 0), *rest]).reshape(groups, inputs, outputs, taps[0], step, taps[1], step)
    turned = parts[:, :, :, ::-1, :, ::-1].transpose(0, 2, 4, 6, 1, 3, 5)
    channels = groups * outputs * step * step
    set_constant(graph, node, 1, turned.reshape(channels, inputs, *taps), "weight")
    if numbers is not None:
        set_constant(graph, node, 2, np.repeat(numbers, step * step), "bias")
        drop_unused(graph, [bias])
    node.op_type = "Conv"
    node.attributes.clear()
    node.attributes["group"] = ir.AttrInt64("group", groups)
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", taps)
    node.attributes["pads"] = ir.AttrInt64s("pads", form.pads)
    _spread(graph, node, form)
    return True


def _leads_out(value: ir.Value) -> bool:
    """Tell whether nothing but moves and squashing functions stand between a value and an output of the graph."""
    readers = [user for user, _ in value.uses() if is_standard(user, *_SQUASHING, *REARRANGING)]
    return value.is_graph_output() or any(_leads_out(user.outputs[0]) for user in readers)


def _spread(graph: ir.Graph, node: ir.Node, form: "_Shuffle") -> None:
    """Put the channels of a convolution into their places, behind its activation, and cut the edges off."""
    last = _activation_behind(node)
    former = last.outputs[0]
    chain = [ir.node("DepthToSpace", [None], {"blocksize": form.step, "mode": "CRD"})]
    if any(form.cut):
        ends = [-size if size else np.iinfo(np.int64).max for size in form.cut[2:]]
        numbers = {"starts": form.cut[:2], "ends": ends, "axes": [2, 3]}
        made = [add_constant(graph, f"{node.name}.{kind}", np.array(given)) for kind, given in numbers.items()]
        chain.append(ir.node("Slice", [chain[0].outputs[0], *made]))
    final = chain[-1].outputs[0]
    final.type, final.shape = former.type, former.shape
    for step in chain:
        step.name = free_node_name(graph, f"{node.name}_{step.op_type}")
        step.outputs[0].type = former.type
    graph.insert_after(last, chain)
    take_over(former, final)
    chain[0].replace_input_with(0, former)
    for value in dict.fromkeys((node.outputs[0], former, *(step.outputs[0] for step in chain[:-1]))):
        # what is known of a value by its name, as moments of channels, does not hold for it any more
        value.name, value.shape = free_name(graph, f"{final.name}_deep"), None


@dataclass(frozen=True, slots=True)
class _Shuffle:
    """Side of the blocks, taps of the convolution, its pads, and what is cut off: before both axes, behind both."""

    step: int
    taps: list[int]
    pads: list[int]
    cut: list[int]

    @classmethod
    def of(cls, node: ir.Node) -> "_Shuffle | None":
        """Return the form of a ConvTranspose; None for one of other axes, or whose sizes are given otherwise."""
        weight = constant_value(node.inputs[1])
        ints = node.attributes.get_ints
        steps = list(ints("strides", [1, 1]))
        if weight is None or weight.ndim != 4 or len(set(steps)) != 1 or steps[0] < 2:
            return None
        plain = all(step == 1 for step in ints("dilations", [])) and "output_shape" not in node.attributes
        if not plain or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return None
        step, sizes = steps[0], weight.shape[2:]
        taps = [-(-size // step) for size in sizes]
        own, more = list(ints("pads", [0] * 4)), list(ints("output_padding", [0, 0]))
        behind = [
            count * step - size + own[2 + axis] - more[axis]
            for axis, (count, size) in enumerate(zip(taps, sizes, strict=True))
        ]
        # whole blocks that are cut off need not be made
        whole = [min(size // step, count - 1) for size, count in zip([*own[:2], *behind], [*taps, *taps], strict=True)]
        pads = [count - 1 - size for count, size in zip([*taps, *taps], whole, strict=True)]
        cut = [size - step * blocks for size, blocks in zip([*own[:2], *behind], whole, strict=True)]
        return None if min(behind) < 0 else cls(step, taps, pads, cut)


def _activation_behind(node: ir.Node) -> ir.Node:
    """Return the Relu or Clip that alone reads a node, which goes on reading it, or the node itself."""
    use = only_use(node.outputs[0])
    return use[0] if use is not None and use[1] == 0 and is_standard(use[0], "Relu", "Clip") else node
