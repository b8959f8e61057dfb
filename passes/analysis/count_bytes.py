"""Count the bytes of a compiled file by layer and purpose."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from passes.operators import QUANTIZERS, RECURRENT, WEIGHTED
from passes.surgery import inner_nodes, is_standard

_Purpose = Literal["weight", "bias", "scale", "constant"]
_UNPACKING = ("Cast", "Div", "Round", "Mod", "Sub", "Reshape", "Slice", "Transpose", "Mul")  # from codes to constants


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """Bytes of a model file: weights by layer, biases, scales and zero points, other constants, nodes and names."""

    weights: Mapping[str, int]
    biases: int
    scales: int
    constants: int
    structure: int

    @property
    def total(self) -> int:
        """Bytes of the file."""
        return sum(self.weights.values()) + self.biases + self.scales + self.constants + self.structure


def count_bytes(model: ir.Model, total: int) -> Contents:
    """Sort the bytes of a file of ``total`` bytes, external data included, by their purpose."""
    nodes = (one for node in model.graph for one in (node, *inner_nodes(node)))
    layers = [node for node in nodes if is_standard(node, *WEIGHTED, *RECURRENT, "Gather")]
    names = {node: node.name or f"{node.op_type} {number}" for number, node in enumerate(layers)}
    weights = dict.fromkeys(names.values(), 0)
    sums: dict[_Purpose, int] = {"bias": 0, "scale": 0, "constant": 0}
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


def _purpose(value: ir.Value) -> tuple[_Purpose, ir.Node | None]:
    """Find the purpose of a constant, and the layer that it belongs to."""
    for use in value.uses():
        node = use.node
        if is_standard(node, *WEIGHTED):
            return ("weight", node) if use.idx < 2 else ("bias", node)
        if is_standard(node, *RECURRENT) and use.idx in (1, 2, 3):
            return ("bias" if use.idx == 3 else "weight", node)
        if is_standard(node, "Gather") and use.idx == 0 and _is_real(value):
            return "weight", node
        if is_standard(node, *QUANTIZERS) and use.idx > 0:
            return "scale", None
        if is_standard(node, "Mul") and _is_scale(node, use.idx):
            return "scale", None
        if use.idx == 0 and is_standard(node, *QUANTIZERS, *_UNPACKING):
            kind, layer = _purpose(node.outputs[0])
            if kind != "constant":
                return kind, layer
    return "constant", None


def _is_real(value: ir.Value) -> bool:
    """Tell whether a value that a Gather reads is no vector of sizes or indices."""
    return value.const_value is None or value.const_value.dtype.is_floating_point()


def _is_scale(product: ir.Node, position: int) -> bool:
    """Tell whether a factor of a product is a scale: of a bias's scale, or the one that dequantizes codes."""
    if position == 1 and _purpose(product.outputs[0])[0] != "constant":
        return True
    return any(is_standard(use.node, *QUANTIZERS) and use.idx == 1 for use in product.outputs[0].uses())
