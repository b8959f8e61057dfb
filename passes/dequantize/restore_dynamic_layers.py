"""Turn layers that quantize what they read as it comes into the float layers that they stand for.

    x -> DynamicQuantizeLinear -> (codes, s, z)
    MatMulInteger(codes, w, z, wz) -> Cast(FLOAT) -> Mul(., s * ws) -> y     ->   y = MatMul(x, (w - wz) * ws)
    ConvInteger(codes, w, z, wz)   -> Cast(FLOAT) -> Mul(., s * ws) -> y     ->   y = Conv(x, (w - wz) * ws)

That is how onnxruntime's quantize_dynamic writes them; s * ws may be multiplied on in either order, or one by one.
Their range is that of the data, so nothing is cut off: only the rounding goes. The weight is exact.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.outcome import Outcome
from passes.plan import Refusal
from passes.quantizer_grid import known_value
from passes.surgery import add_constant, is_standard

_FLOAT_OF = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


class RestoreDynamicLayers(ir.passes.InPlacePass):
    """Rewrite every layer of the pattern; ``folded`` holds the weights that the last call made.

    What is left without readers, the integer layer and its quantizer, is for a later pass to remove.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folded: list[ir.Value] = []

    def call(self, model: ir.Model) -> Outcome:
        """Visit all nodes once; the refusals name each integer layer that stays, and why."""
        self.folded = []
        refusals: list[Refusal] = []
        for node in list(model.graph):
            if not is_standard(node, *_FLOAT_OF):
                continue
            pattern = _pattern(node)
            if isinstance(pattern, str):
                refusals.append(Refusal(where=node.name or "", op_type=node.op_type, reason=pattern))
            else:
                self.folded.append(_restored(model.graph, node, pattern))
        return Outcome(model, bool(self.folded), tuple(refusals))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pattern:
    """What an integer layer stands for.

    Attributes:
        data: the float value that was quantized.
        weight: the float weight.
        result: the float value that comes out.

    """

    data: ir.Value
    weight: NDArray[np.float32]
    result: ir.Value


def _pattern(node: ir.Node) -> _Pattern | str:
    quantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if quantizer is None or not is_standard(quantizer, "DynamicQuantizeLinear"):
        return "what it reads is not made by a DynamicQuantizeLinear"
    if zero is not quantizer.outputs[2] or quantizer.inputs[0] is None:
        return "its zero point is not that of the DynamicQuantizeLinear which it reads"
    codes = known_value(node.inputs[1])
    weight_zero = known_value(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else np.zeros(1)
    if codes is None or weight_zero is None:
        return "its weight is not constant"
    scaled = _scaled(node.outputs[0], quantizer.outputs[1])
    if scaled is None:
        return "it is not followed by Cast and Mul with the scales of its data and its weight"
    scale, result = scaled
    columns = node.op_type == "MatMulInteger"
    for what, array in (("scale", scale), ("zero point", weight_zero)):
        if array.size > 1 and not (columns and array.ndim == 1 and array.size == codes.shape[-1]):
            wanted = "one number, or one for each column" if columns else "one number"
            return f"the {what} of its weight has shape {array.shape}; wanted {wanted}"
    scale, weight_zero = (array.reshape(()) if array.size == 1 else array for array in (scale, weight_zero))
    weight = (codes.astype(np.int32) - weight_zero.astype(np.int32)).astype(np.float32) * scale.astype(np.float32)
    return _Pattern(data=quantizer.inputs[0], weight=weight, result=result)


def _scaled(accumulator: ir.Value, data_scale: ir.Value) -> tuple[NDArray[np.generic], ir.Value] | None:
    """Follow Cast and Mul down to where both scales are in; returns the weight's scale and that value."""
    value, weight_scale, data_seen, cast_seen = accumulator, None, False, False
    while not (cast_seen and data_seen and weight_scale is not None):
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output():
            return None
        node, position = uses[0]
        if is_standard(node, "Cast") and not cast_seen:
            if node.attributes.get_int("to") != ir.DataType.FLOAT.value:
                return None
            cast_seen = True
        elif is_standard(node, "Mul") and cast_seen:
            for factor in _factors(node.inputs[1 - position], data_scale):
                if factor is data_scale and not data_seen:
                    data_seen = True
                elif weight_scale is None and (number := known_value(factor)) is not None:
                    weight_scale = number
                else:
                    return None
        else:
            return None
        value = node.outputs[0]
    return weight_scale, value


def _factors(value: ir.Value | None, data_scale: ir.Value) -> list[ir.Value | None]:
    """Take the product of the two scales apart, where it is one."""
    node = None if value is None else value.producer()
    if node is not None and is_standard(node, "Mul") and data_scale in node.inputs:
        return list(node.inputs)
    return [value]


def _restored(graph: ir.Graph, node: ir.Node, pattern: _Pattern) -> ir.Value:
    stored, result = node.inputs[1], pattern.result
    name = f"{stored.name if stored is not None else node.name}_dequantized"
    weight = add_constant(graph, name, pattern.weight)
    attributes = list(node.attributes.values())
    layer = ir.Node("", _FLOAT_OF[node.op_type], [pattern.data, weight], attributes, name=node.name)
    graph.insert_before(node, layer)
    made = layer.outputs[0]
    made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), result.shape
    given, result.name = result.name, None
    result.replace_all_uses_with(made, replace_graph_outputs=True)
    made.name = given
    return weight
