"""Write biases in float again, for targets whose integer kernels add them so.

    b_quantized (int32) -> DequantizeLinear(scale(x) * scale(w)) -> node   ->   b (float) -> node

The numbers stay those of the int32 grid, so the simulation holds.
"""

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from passes.surgery import add_constant, is_standard, remove_unread


class FloatBiases(ir.passes.InPlacePass):
    """Replace the dequantized int32 biases of all layers by float constants."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visit all layers once."""
        modified = False
        for node in list(model.graph):
            if not is_standard(node, "Conv", "ConvTranspose", "Gemm") or len(node.inputs) < 3:
                continue
            value = node.inputs[2]
            maker = None if value is None else value.producer()
            if value is None or maker is None or not is_standard(maker, "DequantizeLinear") or len(value.uses()) > 1:
                continue
            codes, scale = (constant_value(part) for part in maker.inputs[:2])
            if codes is None or scale is None or codes.dtype != np.int32:
                continue
            numbers = np.asarray(codes.astype(np.float32) * scale.astype(np.float32), np.float32)
            node.replace_input_with(2, add_constant(model.graph, f"{value.name}_float", numbers))
            remove_unread(model.graph, maker)
            modified = True
        return ir.passes.PassResult(model, modified)
