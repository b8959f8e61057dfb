"""Give layers without a bias a zero one, and Gemm one number for each channel.

    Conv(x, w)  ->  Conv(x, w, 0)        ConvTranspose and Gemm alike
    Gemm(x, w, b), b (1, N) or (1,)  ->  Gemm(x, w, b), b (N,)

An integer kernel adds its int32 bias for nothing, and bias correction needs a place to put its correction.
"""

import numpy as np
import onnx_ir as ir

from passes.surgery import add_constant, is_standard, set_input


class AddMissingBias(ir.passes.InPlacePass):
    """Add a zero bias to every Conv, ConvTranspose and Gemm whose weight is constant and whose bias is absent."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visit all nodes once."""
        modified = False
        for node in model.graph:
            if is_standard(node, "Conv", "ConvTranspose", "Gemm"):
                modified |= _add_bias(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _add_bias(graph: ir.Graph, node: ir.Node) -> bool:
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return False
    axis = 0 if node.op_type == "Conv" or node.attributes.get_int("transB") else 1
    groups = node.attributes.get_int("group", 1) if node.op_type == "ConvTranspose" else 1
    channels = weight.const_value.shape.numpy()[axis] * groups
    present = node.inputs[2] if len(node.inputs) > 2 else None
    if present is None:
        bias = np.zeros(channels, weight.const_value.dtype.numpy())
    elif node.op_type == "Gemm" and present.const_value is not None and _is_row(present.const_value, channels):
        bias = np.resize(present.const_value.numpy(), channels)
    else:
        return False
    set_input(node, 2, add_constant(graph, f"{node.name}_bias", bias))
    return True


def _is_row(bias: ir.TensorProtocol, channels: int) -> bool:
    """Whether a bias of a Gemm is the same for all rows, but not written as (channels,)."""
    shape = bias.shape.numpy()
    return shape != (channels,) and shape[:-1] in ((), (1,)) and bias.size in (1, channels)
