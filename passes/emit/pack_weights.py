"""Store narrow weights as INT4, two to a byte, which the runtime widens once, at load.

    w_quantized (int8) -> DequantizeLinear   ->   w_quantized (INT4) -> Cast(to=INT8) -> DequantizeLinear

ONNX Runtime folds the Cast of an initializer when it opens the model and then fuses the integer kernel as for any INT8
weight; a DequantizeLinear of INT4 would run in float on every inference. Compilers that read INT4 weights want just
that (``native``):

    w_quantized (int8) -> DequantizeLinear   ->   w_quantized (INT4) -> DequantizeLinear (zero point INT4)
"""

from dataclasses import dataclass

import onnx_ir as ir

from passes.graph_pass import GraphPass
from passes.surgery import first_reader, input_at

_INT4_LIMITS = (-8, 7)


@dataclass(frozen=True, slots=True)
class PackWeights(GraphPass):
    """Pack the int8 weights of these names, whose codes must fit into INT4."""

    initializers: frozenset[str]
    native: bool = False

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Pack all candidates."""
        modified = False
        for name in sorted(self.initializers & set(model.graph.initializers)):
            modified |= self._pack(model.graph, model.graph.initializers[name])
        return ir.passes.PassResult(model, modified)

    def _pack(self, graph: ir.Graph, value: ir.Value) -> bool:
        readers = tuple(value.uses())
        if value.dtype != ir.DataType.INT8 or value.const_value is None or not readers:
            return False
        narrow(value, "PackWeights")
        if self.native:
            for zero_point in {input_at(use.node, 2) for use in readers}:
                if zero_point is not None and zero_point.dtype == ir.DataType.INT8:
                    narrow(zero_point, "PackWeights")
            return True
        cast = ir.node("Cast", [value], {"to": ir.DataType.INT8.value}, name=f"{value.name}_Cast")
        widened = cast.outputs[0]
        widened.name, widened.dtype, widened.shape = f"{value.name}_int8", ir.DataType.INT8, value.shape
        graph.insert_before(first_reader(graph, value), cast)
        for use in readers:
            use.node.replace_input_with(use.idx, widened)
        return True


def narrow(value: ir.Value, pass_name: str) -> None:
    """Turn an int8 initializer into INT4; raise PassError where its codes do not fit."""
    assert value.const_value is not None
    codes = value.const_value.numpy()
    low, high = _INT4_LIMITS
    if codes.min() < low or codes.max() > high:
        raise ir.passes.PassError(
            f"{pass_name} requires codes in [{low}, {high}] for INT4, got [{codes.min()}, {codes.max()}] "
            f"in '{value.name}': give it more bits in the plan"
        )
    value.const_value = ir.tensor(codes.astype(ir.DataType.INT4.numpy()), dtype=ir.DataType.INT4, name=value.name)
    value.type = ir.TensorType(ir.DataType.INT4)
