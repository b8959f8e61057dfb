"""Move codes instead of floats where nothing but a float operator waits behind.

    codes -> DequantizeLinear -> Transpose -> GRU   ->   codes -> Transpose -> DequantizeLinear -> GRU

The numbers are the same, and a quarter of the bytes is moved. For signed codes it is more than that: ONNX Runtime on
x86 moves the DequantizeLinear by itself, turns the codes to uint8, and trips over the int8 quantizer that it has put
there (1.32, unless the session allows int8): a file made for another processor could not be opened on this one.
"""

import onnx_ir as ir

from passes.graph_pass import NodePass
from passes.operators import REARRANGING
from passes.surgery import free_name, is_standard, only_use, set_type, take_over


class SinkDequantizers(NodePass):
    """Move every DequantizeLinear of an activation behind the operators that only rearrange what it makes."""

    op_types = ("DequantizeLinear",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Sink one dequantizer as far as it goes."""
        modified = False
        while self._sink(graph, node):
            modified = True
        return modified

    def _sink(self, graph: ir.Graph, node: ir.Node) -> bool:
        codes, use = node.inputs[0], only_use(node.outputs[0])
        scale = node.inputs[1]
        if codes is None or codes.const_value is not None or codes.dtype is None or use is None or use[1] != 0:
            return False
        mover, moved = use[0], use[0].outputs[0]
        if not is_standard(mover, *REARRANGING) or scale is None or (scale.shape is not None and len(scale.shape)):
            return False
        if any(is_standard(reader.node, "QuantizeLinear") for reader in moved.uses()):
            return False  # the runtime runs it on codes as it is
        real = node.outputs[0]
        mover.replace_input_with(0, codes)
        graph.remove(node)
        take_over(moved, real)
        moved.name = free_name(graph, f"{real.name}_codes")
        real.shape = moved.shape
        set_type(moved, codes.dtype, moved.shape)
        node.replace_input_with(0, moved)
        graph.insert_after(mover, node)
        return True
