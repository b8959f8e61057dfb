"""Dequantize int32 biases for targets that add biases in float.

    b_quantized (int32) -> DequantizeLinear(scale(x) * scale(w)) -> node   ->   b (float) -> node

The numbers stay those of the int32 codes, so the simulation remains right.
"""

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.operators import WITH_BIAS
from passes.surgery import add_constant, dequantizer, remove_unread


class FloatBiases(NodePass):
    """Replace the dequantized int32 biases of all layers by float constants."""

    op_types = WITH_BIAS

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Replace the bias of a layer."""
        maker = dequantizer(node, 2)
        if maker is None or len(maker.outputs[0].uses()) > 1:
            return False
        codes, scale = (constant_value(part) for part in maker.inputs[:2])
        if codes is None or scale is None or codes.dtype != np.int32:
            return False
        numbers = np.asarray(codes.astype(np.float32) * scale.astype(np.float32), np.float32)
        node.replace_input_with(2, add_constant(graph, f"{maker.outputs[0].name}_float", numbers))
        remove_unread(graph, maker)
        return True
