"""Write operators that compute on codes as what they stand for: a float operator between quantizers.

    QLinearConv(x, xs, xz, w, ws, wz, ys, yz, b)  ->  Q(Conv(DQ(x, xs, xz), DQ(w, ws, wz), DQ(b, xs ws)), ys, yz)
    QLinearMatMul(a, as, az, b, bs, bz, ys, yz)   ->  Q(MatMul(DQ(a, as, az), DQ(b, bs, bz)), ys, yz)
    QGemm(a, as, az, b, bs, bz, c, ys, yz)        ->  Q(Gemm(DQ(a, as, az), DQ(b, bs, bz), DQ(c, alpha as bs)), ys, yz)
    QLinearAdd, QLinearMul, QLinearConcat, QLinearAveragePool, QLinearSigmoid...  ->  Q(Add(DQ, DQ)) and so on

Q and DQ are QuantizeLinear and DequantizeLinear. The first two are ONNX's own, the others onnxruntime's. Nothing is
rounded otherwise than before but the bias, which integer kernels add to an accumulator of the same scale.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from passes.outcome import Outcome
from passes.plan import Refusal
from passes.quantizer_grid import known_value
from passes.surgery import add_constant, free_name

Inputs = Sequence[ir.Value | None]

_CONTRIB = "com.microsoft"
_POOLINGS = {"QLinearGlobalAveragePool": "GlobalAveragePool", "QLinearAveragePool": "AveragePool"}
_OF_ONE = {"QLinearLeakyRelu": "LeakyRelu", "QLinearSigmoid": "Sigmoid", "QLinearSoftmax": "Softmax", **_POOLINGS}
_OF_TWO = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
_OWN_AXIS = 13  # first opset whose Softmax works along one axis


class ExpandQlinear(ir.passes.InPlacePass):
    """Expand every operator of the list above whose attributes the float operator has as well."""

    def call(self, model: ir.Model) -> Outcome:
        """Visit all nodes once; the refusals name those that stay, and why."""
        refusals: list[Refusal] = []
        modified = False
        for node in list(model.graph):
            expand = _expansion(node)
            if expand is None:
                continue
            reason = _obstacle(node)
            if reason is not None:
                refusals.append(Refusal(where=node.name or "", op_type=node.op_type, reason=reason))
                continue
            expand(_Writer(model.graph, node))
            model.graph.remove(node, safe=True)
            modified = True
        return Outcome(model, modified, tuple(refusals))


class _Writer:
    """Puts nodes in front of one node, and takes over its output."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self._graph = graph
        self.node = node
        self.inputs = [*node.inputs, *[None] * 9]  # those at the end may be left out

    def dequantized(self, position: int, axis: int = 1, scale: ir.Value | None = None) -> ir.Value:
        """Return the numbers of the codes at ``position``, whose scale and zero point stand behind it unless given."""
        codes = self.inputs[position]
        zero = None if scale is not None else self.inputs[position + 2]
        scale = scale if scale is not None else self.inputs[position + 1]
        parts = [codes, scale] if zero is None else [codes, scale, zero]
        return self._add("DequantizeLinear", parts, {"axis": ir.AttrInt64("axis", axis)}, f"_in{position}")

    def computed(self, op_type: str, inputs: Inputs, dropped: Sequence[str] = ()) -> ir.Value:
        """Return what the float operator makes, with the attributes of the node but for those that are dropped."""
        kept = {name: attribute for name, attribute in self.node.attributes.items() if name not in dropped}
        return self._add(op_type, inputs, kept, "_float")

    def quantized(self, value: ir.Value, position: int) -> None:
        """Let the node's output be the codes of a value, with the scale and zero point that stand at ``position``."""
        scale, zero = self.inputs[position], self.inputs[position + 1]
        output = self.node.outputs[0]
        made = self._add("QuantizeLinear", [value, scale] if zero is None else [value, scale, zero], {}, "_out")
        made.type, made.shape = output.type, output.shape
        self.handed_on(made)

    def handed_on(self, value: ir.Value) -> None:
        """Let a value take the place and the name of the node's output."""
        output = self.node.outputs[0]
        name, output.name = output.name, None
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        value.name = name

    def product(self, *scales: int, factor: float = 1.0) -> ir.Value:
        """Return the scale of an accumulator: the product of those at the positions."""
        number = np.asarray(factor, np.float32)
        for position in scales:
            scale = known_value(self.inputs[position])
            assert scale is not None  # see _obstacle
            number = number * np.asarray(scale.reshape(()) if scale.size == 1 else scale, np.float32)
        return add_constant(self._graph, f"{self.node.outputs[0].name}_bias_scale", number.astype(np.float32))

    def _add(self, op_type: str, inputs: Inputs, attributes: dict[str, ir.Attr], suffix: str) -> ir.Value:
        name = free_name(self._graph, f"{self.node.outputs[0].name}{suffix}")
        node = ir.Node("", op_type, inputs, list(attributes.values()), name=name)
        node.outputs[0].name = name
        self._graph.insert_before(self.node, node)
        return node.outputs[0]


def _expansion(node: ir.Node) -> Callable[[_Writer], None] | None:
    if node.op_type == "QLinearConv":
        return _conv
    if node.op_type == "QLinearMatMul":
        return _matmul
    if node.domain != _CONTRIB:
        return None
    if node.op_type in _OF_ONE:
        return _of_one
    return {"QGemm": _gemm, "QLinearConcat": _concat, **dict.fromkeys(_OF_TWO, _of_two)}.get(node.op_type)


def _conv(writer: _Writer) -> None:
    parts = [writer.dequantized(0), writer.dequantized(3, axis=0)]
    if writer.inputs[8] is not None:
        parts.append(writer.dequantized(8, axis=0, scale=writer.product(1, 4)))
    writer.quantized(writer.computed("Conv", parts, ["channels_last"]), 6)


def _matmul(writer: _Writer) -> None:
    writer.quantized(writer.computed("MatMul", [writer.dequantized(0), writer.dequantized(3, axis=-1)]), 6)


def _gemm(writer: _Writer) -> None:
    node = writer.node
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    parts = [writer.dequantized(0), writer.dequantized(3, axis=axis)]
    if writer.inputs[6] is not None:
        factor = node.attributes.get_float("alpha", 1.0)
        parts.append(writer.dequantized(6, axis=-1, scale=writer.product(1, 4, factor=factor)))
    made = writer.computed("Gemm", parts)
    if writer.inputs[7] is None:  # without a scale of its own the result is a float
        made.type, made.shape = node.outputs[0].type, node.outputs[0].shape
        writer.handed_on(made)
    else:
        writer.quantized(made, 7)


def _of_one(writer: _Writer) -> None:
    made = writer.computed(_OF_ONE[writer.node.op_type], [writer.dequantized(0)], ["channels_last", "opset"])
    writer.quantized(made, 3)


def _of_two(writer: _Writer) -> None:
    made = writer.computed(_OF_TWO[writer.node.op_type], [writer.dequantized(0), writer.dequantized(3)])
    writer.quantized(made, 6)


def _concat(writer: _Writer) -> None:
    parts = [writer.dequantized(position) for position in range(2, len(writer.node.inputs), 3)]
    writer.quantized(writer.computed("Concat", parts), 0)


def _obstacle(node: ir.Node) -> str | None:
    """Why a node cannot be expanded, or None."""
    if node.attributes.get_int("channels_last", 0):
        return "its channels come last, and those of ONNX's own operators do not"
    graph = node.graph
    opset = (graph.opset_imports.get("") if graph is not None else None) or 0
    if node.op_type == "QLinearSoftmax" and min(opset, node.attributes.get_int("opset", 0)) < _OWN_AXIS:
        return f"it follows an opset before {_OWN_AXIS}, whose Softmax works on several axes at a time"
    biased = {"QLinearConv": 8, "QGemm": 6}.get(node.op_type, len(node.inputs))
    if biased < len(node.inputs) and node.inputs[biased] is not None:
        for position in (1, 4):
            if known_value(node.inputs[position]) is None:
                return "a scale of its bias is computed at run time"
    if node.op_type == "QLinearMatMul":
        scale, weight = known_value(node.inputs[4]), known_value(node.inputs[3])
        if scale is not None and scale.size > 1 and (scale.ndim != 1 or weight is None):
            return f"its second operand has scales of shape {scale.shape}; wanted one for each column of a constant"
    return None
