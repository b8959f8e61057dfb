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
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return node.op_type == "Gemm" and _per_channel(graph, node, node.inputs[2])
    axis = 0 if node.op_type == "Conv" or node.attributes.get_int("transB") else 1
    groups = node.attributes.get_int("group", 1) if node.op_type == "ConvTranspose" else 1
    zeros = np.zeros(weight.const_value.shape.numpy()[axis] * groups, weight.const_value.dtype.numpy())
    set_input(node, 2, add_constant(graph, f"{node.name}_bias", zeros))
    return True


def _per_channel(graph: ir.Graph, node: ir.Node, bias: ir.Value) -> bool:
    """Write the bias of a Gemm out, where it is the same for all rows."""
    weight = node.inputs[1]
    if bias.const_value is None or weight is None or weight.const_value is None:
        return False
    channels = weight.const_value.shape.numpy()[0 if node.attributes.get_int("transB", 0) else 1]
    array = bias.const_value.numpy()
    if array.shape == (channels,) or array.size not in (1, channels) or array.shape[:-1] not in ((), (1,)):
        return False
    set_input(node, 2, add_constant(graph, f"{node.name}_bias", np.resize(array, channels)))
    return True
