"""Fuse the addition of a constant behind a layer into the layer's bias.

Conv(x, w, b) + c    ->  Conv(x, w, b + c)     c the same at every position of a channel; ConvTranspose too
MatMul(x, w) + c     ->  Gemm(x, w, c)         x and w matrices, c the same in every row
Gemm(x, w, b) + c    ->  Gemm(x, w, b + c)
Conv(x, w, b) - c    ->  Conv(x, w, b - c)     likewise
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.operators import DENSE, WEIGHTED
from passes.surgery import absorb, drop_unused, is_standard, only_use, set_constant
from passes.weight_layout import channel_count, constant_bias, constant_weight


class FuseBias(NodePass):
    """Fuse an Add or Sub of a constant into the layer before it, if nobody else reads that layer's output."""

    op_types = ("Add", "Sub")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Fuse the sum; of several in a row each is fused in turn."""
        constants = [constant_value(value) for value in node.inputs]
        if sum(array is not None for array in constants) != 1 or (node.op_type == "Sub" and constants[1] is None):
            return False
        addend = next(array for array in constants if array is not None).astype(np.float64)
        addend = -addend if node.op_type == "Sub" else addend
        source = next(value for value, array in zip(node.inputs, constants, strict=True) if array is None)
        layer = source.producer() if source is not None else None
        bias = None if layer is None else _fused_bias(layer, addend)
        if source is None or layer is None or bias is None or only_use(source) is None:
            return False
        if layer.op_type == "MatMul":
            layer.op_type = "Gemm"
        former = layer.inputs[2:]
        set_constant(graph, layer, 2, bias.astype(np.float32), "bias")
        drop_unused(graph, former)
        if layer.op_type == "Gemm":
            layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
        absorb(graph, node, source)
        return True


def _fused_bias(layer: ir.Node, addend: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the bias that the layer would have, (channels,), or None if it cannot take the addend."""
    weight = constant_weight(layer) if is_standard(layer, *WEIGHTED) else None
    rank = 2 if weight is None or layer.op_type in DENSE else weight.ndim
    if weight is None or weight.dtype != np.float32 or addend.ndim > rank:
        return None
    data = layer.inputs[0]
    if layer.op_type == "MatMul" and (data is None or data.shape is None or len(data.shape) != 2):
        return None
    channels = channel_count(layer, weight.shape)
    shape = (1,) * (rank - addend.ndim) + addend.shape
    if any(size != 1 and (position != 1 or size != channels) for position, size in enumerate(shape)):
        return None
    own = constant_bias(layer, channels)
    return None if own is None else own + addend.reshape(-1)
