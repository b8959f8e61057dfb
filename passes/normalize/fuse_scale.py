"""Fuse the product with a constant behind a layer into the layer's weight and bias.

    Conv(x, w, b) * c           ->  Conv(x, c w, c b)     c the same at every position of a channel; ConvTranspose too
    MatMul(x, w) * c            ->  MatMul(x, c w)        c one number for each column; Gemm too
    Reshape(Gemm(x, w, b)) * c  ->  Reshape(Gemm(x, c w, c b))     where the columns stay the last axis
    layer / c                   ->  likewise

Networks have such scales in front of a sum (LayerScale), or as what is left of a folded normalisation.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.operators import DENSE, WEIGHTED
from passes.surgery import absorb, drop_unused, is_standard, only_use, producer, set_constant
from passes.weight_layout import by_channels, channel_count, constant_bias, constant_weight


class FuseScale(NodePass):
    """Fuse a Mul or Div with a finite constant into the layer before it, if nobody else reads that layer's output."""

    op_types = ("Mul", "Div")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Fuse the product; of several in a row each is fused in turn."""
        for source, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            given = constant_value(other)
            if source is None or given is None or (node.op_type == "Div" and source is not node.inputs[0]):
                continue
            layer = _layer(source)
            factor = given.astype(np.float64) if node.op_type == "Mul" else _inverse(given)
            if layer is None or factor is None or not np.isfinite(factor).all():
                return False
            row = _row(layer, source, factor)
            if row is None:
                return False
            _scale(graph, layer, row)
            absorb(graph, node, source)
            return True
        return False


def _inverse(given: NDArray[np.generic]) -> NDArray[np.float64] | None:
    divisor = given.astype(np.float64)
    return 1.0 / divisor if divisor.all() else None


def _layer(source: ir.Value) -> ir.Node | None:
    """Return the layer that makes a value for one reader, also through a Reshape that leaves its columns alone."""
    node = source.producer()
    if node is None or only_use(source) is None:
        return None
    if is_standard(node, "Reshape"):
        inner = node.inputs[0]
        shapes = (None if inner is None else inner.shape, source.shape)
        if inner is None or only_use(inner) is None or any(shape is None or not len(shape) for shape in shapes):
            return None
        before, after = (shape[-1] for shape in shapes if shape is not None)
        layer = producer(node, 0)
        columns = isinstance(before, int) and before == after
        return layer if columns and layer is not None and is_standard(layer, *DENSE) else None
    return node if is_standard(node, *WEIGHTED) else None


def _row(layer: ir.Node, source: ir.Value, factor: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(channels,) factors of a layer whose weight and bias are constant, or None where they are none of channels."""
    weight = constant_weight(layer)
    if weight is None or weight.dtype != np.float32 or source.dtype not in (None, ir.DataType.FLOAT):
        return None
    channels = channel_count(layer, weight.shape)
    if constant_bias(layer, channels) is None:
        return None
    rank = weight.ndim if layer.op_type not in DENSE else len(source.shape) if source.shape is not None else 0
    axis = rank - 1 if layer.op_type in DENSE else 1
    shape = (1,) * (rank - factor.ndim) + factor.shape
    if len(shape) != rank or any(size != 1 and (at != axis or size != channels) for at, size in enumerate(shape)):
        return None
    return np.broadcast_to(factor.reshape(-1), (channels,))


def _scale(graph: ir.Graph, layer: ir.Node, row: NDArray[np.float64]) -> None:
    weight = np.array(constant_weight(layer), dtype=np.float64, order="C")
    bias = constant_bias(layer, row.size)
    assert bias is not None
    rows = by_channels(layer, weight)
    rows *= row.reshape(len(rows), -1, 1, 1)
    former = tuple(layer.inputs[1:])
    set_constant(graph, layer, 1, weight.astype(np.float32), "weight")
    if len(former) > 1 and former[1] is not None:
        set_constant(graph, layer, 2, (row * bias).astype(np.float32), "bias")
        if layer.op_type == "Gemm":
            layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    drop_unused(graph, former)
