"""Where the bytes of a model file are: follow every constant to the layer that reads it."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from passes.surgery import is_standard

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_UNPACKING = ("Cast", "Div", "Mod", "Sub", "Reshape", "Slice", "Transpose", "Mul")  # from packed codes to the weight


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """Where the bytes of a model file are.

    Attributes:
        weights: bytes of weights, by the name of their layer, in the order of the graph.
        biases: bytes of all biases.
        scales: bytes of all scales and zero points.
        constants: bytes of all other constants.
        structure: the rest of the file: nodes, names, what they are connected by.

    """

    weights: Mapping[str, int]
    biases: int
    scales: int
    constants: int
    structure: int

    @property
    def total(self) -> int:
        """Bytes of the file."""
        return sum(self.weights.values()) + self.biases + self.scales + self.constants + self.structure


def file_contents(model: ir.Model, total: int) -> Contents:
    """Sort the bytes of a file of ``total`` bytes, external data included, by what they are for."""
    weights: dict[str, int] = {
        node.name or f"{node.op_type} {number}": 0
        for number, node in enumerate(model.graph)
        if is_standard(node, *_LAYERS)
    }
    names = dict(zip((node for node in model.graph if is_standard(node, *_LAYERS)), weights, strict=True))
    sums = {"bias": 0, "scale": 0, "constant": 0}
    for value in model.graph.initializers.values():
        if value.const_value is None:
            continue
        kind, layer = _purpose(value)
        if layer is not None and kind == "weight":
            weights[names[layer]] += value.const_value.nbytes
        else:
            sums[kind] += value.const_value.nbytes
    weights = {name: count for name, count in weights.items() if count}
    known = sum(weights.values()) + sum(sums.values())
    return Contents(
        weights=weights,
        biases=sums["bias"],
        scales=sums["scale"],
        constants=sums["constant"],
        structure=max(total - known, 0),
    )


def _purpose(value: ir.Value) -> tuple[str, ir.Node | None]:
    """Tell what a constant is: "weight" with its layer, "bias", "scale", or any other "constant"."""
    for use in value.uses():
        node = use.node
        if is_standard(node, *_LAYERS):
            return ("weight", node) if use.idx < 2 else ("bias", node)
        if is_standard(node, *_QUANTIZERS) and use.idx > 0:
            return "scale", None
        if is_standard(node, "Mul") and _scales(node, use.idx):
            return "scale", None
        if use.idx == 0 and is_standard(node, *_QUANTIZERS, *_UNPACKING):
            kind, layer = _purpose(node.outputs[0])
            if kind != "constant":
                return kind, layer
    return "constant", None


def _scales(node: ir.Node, place: int) -> bool:
    """Tell whether a product is a scale, data's times weight's, or widens codes by a factor in second place."""
    if place == 1 and _purpose(node.outputs[0])[0] != "constant":
        return True
    return any(is_standard(use.node, *_QUANTIZERS) and use.idx == 1 for use in node.outputs[0].uses())
