"""Expand operators that compute on codes into a float operator between quantizers.

    QLinearConv(x, xs, xz, w, ws, wz, ys, yz, b)  ->  Q(Conv(DQ(x, xs, xz), DQ(w, ws, wz), DQ(b, xs ws)), ys, yz)
    QLinearMatMul(a, as, az, b, bs, bz, ys, yz)   ->  Q(MatMul(DQ(a, as, az), DQ(b, bs, bz)), ys, yz)
    QGemm(a, as, az, b, bs, bz, c, ys, yz)        ->  Q(Gemm(DQ(a, as, az), DQ(b, bs, bz), DQ(c, alpha as bs)), ys, yz)
    QLinearAdd, QLinearMul, QLinearConcat, QLinearAveragePool, QLinearSigmoid...  ->  Q(Add(DQ, DQ)) and so on

Q and DQ are QuantizeLinear and DequantizeLinear. The first two operators are ONNX's own, the others onnxruntime's. Only
the bias is rounded differently: integer kernels add it to an accumulator of the same scale.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from passes.graph_pass import NodePass
from passes.quantizer_grid import known_value
from passes.surgery import add_constant, free_name, input_at, take_over

Inputs = Sequence[ir.Value | None]

_CONTRIB = "com.microsoft"
_POOLINGS = {"QLinearGlobalAveragePool": "GlobalAveragePool", "QLinearAveragePool": "AveragePool"}
_OF_ONE = {"QLinearLeakyRelu": "LeakyRelu", "QLinearSigmoid": "Sigmoid", "QLinearSoftmax": "Softmax", **_POOLINGS}
_OF_TWO = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
_OWN_AXIS = 13  # first opset whose Softmax works along one axis


class ExpandQlinear(NodePass):
    """Expand every operator of the list above; refused where it means more than the float operator can say."""

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool | str:
        """Expand the node."""
        expand = _expansion(node)
        reason = None if expand is None else _obstacle(node)
        if expand is None or reason is not None:
            return reason or False
        expand(_Writer(graph, node))
        graph.remove(node, safe=True)
        return True


class _Writer:
    """Puts nodes in front of one node, and replaces its output."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self._graph = graph
        self.node = node
        self.inputs = [*node.inputs, *[None] * 9]  # trailing ones may be left out

    def dequantize(self, position: int, axis: int = 1, scale: ir.Value | None = None) -> ir.Value:
        """Dequantize the input at ``position``; its scale and zero point are the next two inputs, unless given."""
        codes = self.inputs[position]
        zero = None if scale is not None else self.inputs[position + 2]
        scale = scale if scale is not None else self.inputs[position + 1]
        parts = [codes, scale] if zero is None else [codes, scale, zero]
        return self._add("DequantizeLinear", parts, {"axis": ir.AttrInt64("axis", axis)}, f"_in{position}")

    def compute(self, op_type: str, inputs: Inputs, dropped: Sequence[str] = ()) -> ir.Value:
        """Add the float operator, with the attributes of the node but for those that are dropped."""
        kept = {name: attribute for name, attribute in self.node.attributes.items() if name not in dropped}
        return self._add(op_type, inputs, kept, "_float")

    def quantize(self, value: ir.Value, position: int) -> None:
        """Quantize a value with the scale and zero point at ``position``, in place of the node's output."""
        scale, zero = self.inputs[position], self.inputs[position + 1]
        output = self.node.outputs[0]
        made = self._add("QuantizeLinear", [value, scale] if zero is None else [value, scale, zero], {}, "_out")
        made.type, made.shape = output.type, output.shape
        take_over(output, made)

    def multiply_scales(self, *scales: int, factor: float = 1.0) -> ir.Value:
        """Add the scale of the accumulator: the product of the scales at these positions."""
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
    own: dict[str, Callable[[_Writer], None]] = {"QLinearConv": _conv, "QLinearMatMul": _matmul}
    contrib = {"QGemm": _gemm, "QLinearConcat": _concat, **dict.fromkeys(_OF_ONE, _of_one)}
    contrib |= dict.fromkeys(_OF_TWO, _of_two)
    return own.get(node.op_type) or (contrib.get(node.op_type) if node.domain == _CONTRIB else None)


def _conv(writer: _Writer) -> None:
    parts = [writer.dequantize(0), writer.dequantize(3, axis=0)]
    if writer.inputs[8] is not None:
        parts.append(writer.dequantize(8, axis=0, scale=writer.multiply_scales(1, 4)))
    writer.quantize(writer.compute("Conv", parts, ["channels_last"]), 6)


def _matmul(writer: _Writer) -> None:
    writer.quantize(writer.compute("MatMul", [writer.dequantize(0), writer.dequantize(3, axis=-1)]), 6)


def _gemm(writer: _Writer) -> None:
    node = writer.node
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    parts = [writer.dequantize(0), writer.dequantize(3, axis=axis)]
    if writer.inputs[6] is not None:
        factor = node.attributes.get_float("alpha", 1.0)
        parts.append(writer.dequantize(6, axis=-1, scale=writer.multiply_scales(1, 4, factor=factor)))
    made = writer.compute("Gemm", parts)
    if writer.inputs[7] is None:  # without a scale of its own the result is a float
        made.type, made.shape = node.outputs[0].type, node.outputs[0].shape
        take_over(node.outputs[0], made)
    else:
        writer.quantize(made, 7)


def _of_one(writer: _Writer) -> None:
    made = writer.compute(_OF_ONE[writer.node.op_type], [writer.dequantize(0)], ["channels_last", "opset"])
    writer.quantize(made, 3)


def _of_two(writer: _Writer) -> None:
    made = writer.compute(_OF_TWO[writer.node.op_type], [writer.dequantize(0), writer.dequantize(3)])
    writer.quantize(made, 6)


def _concat(writer: _Writer) -> None:
    parts = [writer.dequantize(position) for position in range(2, len(writer.node.inputs), 3)]
    writer.quantize(writer.compute("Concat", parts), 0)


def _obstacle(node: ir.Node) -> str | None:
    """Why a node cannot be expanded, or None."""
    if node.attributes.get_int("channels_last", 0):
        return "its channels come last, and those of ONNX's own operators do not"
    graph = node.graph
    opset = (graph.opset_imports.get("") if graph is not None else None) or 0
    if node.op_type == "QLinearSoftmax" and min(opset, node.attributes.get_int("opset", 0)) < _OWN_AXIS:
        return f"it follows an opset before {_OWN_AXIS}, whose Softmax works on several axes at a time"
    bias = {"QLinearConv": 8, "QGemm": 6}.get(node.op_type, len(node.inputs))
    if input_at(node, bias) is not None and any(known_value(node.inputs[position]) is None for position in (1, 4)):
        return "a scale of its bias is computed at run time"
    if node.op_type == "QLinearMatMul":
        scale, weight = known_value(node.inputs[4]), known_value(node.inputs[3])
        if scale is not None and scale.size > 1 and (scale.ndim != 1 or weight is None):
            return f"its second operand has scales of shape {scale.shape}; wanted one for each column of a constant"
    return None
