"""Give layers without a bias a zero one, and Gemm one number for each channel.

    Conv(x, w)  ->  Conv(x, w, 0)        ConvTranspose and Gemm alike
    Gemm(x, w, b), b (1, N) or (1,)  ->  Gemm(x, w, b), b (N,)

An integer kernel adds its int32 bias at no cost, and bias correction needs a bias to correct.
"""

import numpy as np
import onnx_ir as ir

from passes.graph_pass import NodePass
from passes.operators import WITH_BIAS
from passes.surgery import add_constant, input_at, set_input
from passes.weight_layout import channel_count


class AddMissingBias(NodePass):
    """Add a zero bias to every Conv, ConvTranspose and Gemm whose weight is constant and whose bias is absent."""

    op_types = WITH_BIAS

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Add or reshape the bias."""
        weight, present = node.inputs[1], input_at(node, 2)
        if weight is None or weight.const_value is None:
            return False
        channels = channel_count(node, weight.const_value.shape.numpy())
        if present is None:
            bias = np.zeros(channels, weight.const_value.dtype.numpy())
        elif node.op_type == "Gemm" and present.const_value is not None and _is_row(present.const_value, channels):
            bias = np.resize(present.const_value.numpy(), channels)
        else:
            return False
        set_input(node, 2, add_constant(graph, f"{node.name}_bias", bias))
        return True


def _is_row(bias: ir.TensorProtocol, channels: int) -> bool:
    """Tell whether a bias of a Gemm is the same for all rows, but not of shape (channels,)."""
    shape = bias.shape.numpy()
    return shape != (channels,) and shape[:-1] in ((), (1,)) and bias.size in (1, channels)
