"""Restore the float layers of onnxruntime's dynamic quantization.

    x -> DynamicQuantizeLinear -> (codes, s, z)
    MatMulInteger(codes, w, z, wz) -> Cast(FLOAT) -> Mul(., s * ws) -> y     ->   y = MatMul(x, (w - wz) * ws)
    ConvInteger(codes, w, z, wz)   -> Cast(FLOAT) -> Mul(., s * ws) -> y     ->   y = Conv(x, (w - wz) * ws)

s and ws may be multiplied on in either order, or one by one. The range is that of the data, so nothing is clipped: only
the rounding goes. The weight is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.graph_pass import NodePass, Outcome
from passes.qdq_names import dequantized_name
from passes.quantizer_grid import known_value
from passes.surgery import add_constant, input_at, is_standard, only_use, producer, set_type, take_over

_FLOAT_OF = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


class RestoreDynamicLayers(NodePass):
    """Rewrite every layer of the pattern; other integer layers are refused.

    ``folded`` holds the weights that the last call made. The integer layer and its quantizer, which nobody reads any
    more, are left for a later pass to remove.
    """

    op_types = tuple(_FLOAT_OF)
    folded: Sequence[ir.Value] = ()

    def call(self, model: ir.Model) -> Outcome:
        """Rewrite all layers."""
        self.folded = ()
        return super().call(model)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool | str:
        """Rewrite the layer."""
        pattern = _pattern(node)
        if isinstance(pattern, str):
            return pattern
        self.folded = (*self.folded, _restore(graph, node, pattern))
        return True


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pattern:
    """Float input, weight and output of an integer layer."""

    data: ir.Value
    weight: NDArray[np.float32]
    result: ir.Value


def _pattern(node: ir.Node) -> _Pattern | str:
    quantizer, zero = producer(node, 0), input_at(node, 2)
    if quantizer is None or not is_standard(quantizer, "DynamicQuantizeLinear"):
        return "what it reads is not made by a DynamicQuantizeLinear"
    if zero is not quantizer.outputs[2] or quantizer.inputs[0] is None:
        return "its zero point is not that of the DynamicQuantizeLinear which it reads"
    codes = known_value(node.inputs[1])
    given = input_at(node, 3)
    weight_zero = np.zeros(1) if given is None else known_value(given)
    if codes is None or weight_zero is None:
        return "its weight is not constant"
    scaled = _find_scales(node.outputs[0], quantizer.outputs[1])
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


def _find_scales(accumulator: ir.Value, data_scale: ir.Value) -> tuple[NDArray[np.generic], ir.Value] | None:
    """Follow Cast and Mul down to where both scales are in; return the weight's scale and that value."""
    value, weight_scale, data_seen, cast_seen = accumulator, None, False, False
    while not (cast_seen and data_seen and weight_scale is not None):
        use = only_use(value)
        if use is None:
            return None
        node, position = use
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
    """Split the product of the two scales, where it is one."""
    node = None if value is None else value.producer()
    if node is not None and is_standard(node, "Mul") and data_scale in node.inputs:
        return list(node.inputs)
    return [value]


def _restore(graph: ir.Graph, node: ir.Node, pattern: _Pattern) -> ir.Value:
    stored, result = node.inputs[1], pattern.result
    name = dequantized_name(node.name if stored is None else stored.name)
    weight = add_constant(graph, name, pattern.weight)
    attributes = list(node.attributes.values())
    layer = ir.Node("", _FLOAT_OF[node.op_type], [pattern.data, weight], attributes, name=node.name)
    graph.insert_before(node, layer)
    set_type(layer.outputs[0], ir.DataType.FLOAT, result.shape)
    take_over(result, layer.outputs[0])
    return weight
