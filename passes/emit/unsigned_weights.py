"""Write weights as uint8 where the kernels of int8 weights saturate.

    DequantizeLinear (int8 codes, zero point 0)   ->   DequantizeLinear (uint8 codes, 128 more, zero point 128)

Without VNNI, ONNX Runtime on x86 adds the products of two uint8 and two int8 numbers in 16 bits (VPMADDUBSW), and what
passes 32767 is lost. Codes from -64 to 64 are safe: 2 * 255 * 64 = 32640. Kernels of uint8 weights widen before they
multiply. The numbers stay the same. A depthwise convolution has kernels of its own, which widen as well, and are faster
for int8.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from passes.graph_pass import GraphPass
from passes.operators import DENSE
from passes.surgery import add_constant, dequantizer, input_at, is_standard, set_input, set_type, standard_nodes

_INTEGER = ("Conv", *DENSE)  # a ConvTranspose runs in float on x86, whatever holds its weights
_MIDDLE = 128
_SAFE = 64


@dataclass(frozen=True, slots=True)
class UnsignedWeights(GraphPass):
    """Turn int8 weights into uint8 wherever a sum could saturate; packed ones are too small to."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Shift constants that only such layers read; for other readers the old ones stay, and are shifted at load."""
        makers: dict[ir.Value, dict[ir.Node, None]] = {}
        for node in standard_nodes(model.graph, *_INTEGER):
            codes = saturating_codes(node)
            maker = dequantizer(node, 1)
            if codes is not None and maker is not None:
                makers.setdefault(codes, {})[maker] = None
        for codes, found in makers.items():
            _shift(model.graph, codes, list(found))
        return ir.passes.PassResult(model, bool(makers))


def saturating_codes(node: ir.Node) -> ir.Value | None:
    """Return the int8 codes of a constant weight where a sum of two of its products may pass 16 bits, else None."""
    maker = dequantizer(node, 1) if is_standard(node, *_INTEGER) else None
    codes = None if maker is None else maker.inputs[0]
    if codes is None or codes.const_value is None or codes.const_value.dtype != ir.DataType.INT8:
        return None
    if is_standard(node, "Conv") and _is_depthwise(node, codes):
        return None
    numbers = codes.const_value.numpy()
    return codes if int(numbers.min(initial=0)) < -_SAFE or int(numbers.max(initial=0)) > _SAFE else None


def _is_depthwise(node: ir.Node, codes: ir.Value) -> bool:
    """Whether every group has one input and one output channel; with more outputs it goes through other kernels."""
    assert codes.const_value is not None
    outputs, inputs = codes.const_value.shape.numpy()[:2]
    return bool(inputs == 1 and outputs == node.attributes.get_int("group", 1))


def _shift(graph: ir.Graph, codes: ir.Value, makers: list[ir.Node]) -> None:
    """Let the dequantizers of a weight read it as uint8."""
    if {use.node for use in codes.uses()} == set(makers):
        shifted = _shift_constant(codes)
    else:
        shifted = _insert_shift(graph, codes, makers[0])
    for maker in makers:
        old, scale = input_at(maker, 2), constant_value(maker.inputs[1])
        middle = np.full(() if scale is None else scale.shape, _MIDDLE, np.uint8)
        maker.replace_input_with(0, shifted)
        set_input(maker, 2, add_constant(graph, f"{shifted.name}_middle", middle))
        if old is not None and old.is_initializer() and not old.uses():
            del graph.initializers[str(old.name)]


def _shift_constant(codes: ir.Value) -> ir.Value:
    assert codes.const_value is not None
    numbers = codes.const_value.numpy().astype(np.int16) + _MIDDLE
    codes.const_value = ir.tensor(numbers.astype(np.uint8), name=codes.name)
    codes.type = ir.TensorType(ir.DataType.UINT8)
    return codes


def _insert_shift(graph: ir.Graph, codes: ir.Value, reader: ir.Node) -> ir.Value:
    """Insert what makes uint8 codes of int8 ones, in front of their first reader; a runtime computes it at load."""
    owner = str(codes.name)
    wide = ir.node("Cast", [codes], {"to": ir.DataType.INT32.value}, name=f"{owner}_Widen")
    middle = add_constant(graph, f"{owner}_shift", np.asarray(_MIDDLE, np.int32))
    moved = ir.node("Add", [wide.outputs[0], middle], name=f"{owner}_Shift")
    narrow = ir.node("Cast", [moved.outputs[0]], {"to": ir.DataType.UINT8.value}, name=f"{owner}_Narrow")
    kinds = (("wide", ir.DataType.INT32), ("moved", ir.DataType.INT32), ("unsigned", ir.DataType.UINT8))
    for node, (kind, dtype) in zip((wide, moved, narrow), kinds, strict=True):
        node.outputs[0].name = f"{owner}_{kind}"
        set_type(node.outputs[0], dtype, codes.shape)
    graph.insert_before(reader, [wide, moved, narrow])
    return narrow.outputs[0]
