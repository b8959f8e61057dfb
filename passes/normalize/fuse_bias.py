"""Give the addition of a constant behind a layer to the layer.

Conv(x, w, b) + c    ->  Conv(x, w, b + c)     c the same at every position of a channel; ConvTranspose too
MatMul(x, w) + c     ->  Gemm(x, w, c)         x and w matrices, c the same in every row
Gemm(x, w, b) + c    ->  Gemm(x, w, b + c)
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.surgery import absorb, drop_unused, is_standard, set_constant


class FuseBias(ir.passes.InPlacePass):
    """Fuse an Add of a constant into the layer before it, if nobody else reads that layer's output."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visit every Add once; chains of Add are followed, for the nodes come in order."""
        modified = False
        for node in list(model.graph):
            if is_standard(node, "Add"):
                modified |= _fuse(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _fuse(graph: ir.Graph, node: ir.Node) -> bool:
    constants = [constant_value(value) for value in node.inputs]
    if sum(array is not None for array in constants) != 1:
        return False
    addend = next(array for array in constants if array is not None)
    source = next(value for value, array in zip(node.inputs, constants, strict=True) if array is None)
    layer = source.producer() if source is not None else None
    if source is None or layer is None or len(source.uses()) > 1 or source.is_graph_output():
        return False
    bias = _bias(layer, addend)
    if bias is None:
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


def _bias(layer: ir.Node, addend: NDArray[np.generic]) -> NDArray[np.float64] | None:
    """Return the bias that the layer would have, (channels,), or None if it cannot take the addend."""
    if not is_standard(layer, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    weight = constant_value(layer.inputs[1])
    channels, axis, rank = _channels(layer, weight)
    if weight is None or weight.dtype != np.float32 or not channels or addend.ndim > rank:
        return None
    data = layer.inputs[0]
    if layer.op_type == "MatMul" and (data is None or data.shape is None or len(data.shape) != 2):
        return None
    shape = (1,) * (rank - addend.ndim) + addend.shape
    if any(size != 1 and (position != axis or size != channels) for position, size in enumerate(shape)):
        return None
    own = constant_value(layer.inputs[2]) if len(layer.inputs) > 2 and layer.inputs[2] is not None else np.zeros(())
    if own is None or own.size not in (1, channels):
        return None
    beta = layer.attributes.get_float("beta", 1.0) if layer.op_type == "Gemm" else 1.0
    total = beta * own.reshape(-1).astype(np.float64) + addend.reshape(-1).astype(np.float64)
    return np.broadcast_to(total, (channels,))


def _channels(layer: ir.Node, weight: NDArray[np.generic] | None) -> tuple[int, int, int]:
    """Output channels, their axis in the layer's output, and the output's rank; zeros if the weight is not constant."""
    if weight is None or weight.ndim < 2:
        return 0, 0, 0
    match layer.op_type:
        case "Conv":
            return weight.shape[0], 1, weight.ndim
        case "ConvTranspose":
            return weight.shape[1] * layer.attributes.get_int("group", 1), 1, weight.ndim
        case "Gemm":
            return weight.shape[0 if layer.attributes.get_int("transB", 0) else 1], 1, 2
        case _:
            return (weight.shape[1], 1, 2) if weight.ndim == 2 else (0, 0, 0)
