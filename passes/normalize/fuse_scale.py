"""Fuse the product with a constant behind a layer into the layer's weight and bias.

    Conv(x, w, b) * c           ->  Conv(x, c w, c b)     c the same at every position of a channel; ConvTranspose too
    MatMul(x, w) * c            ->  MatMul(x, c w)        c one number for each column; Gemm too
    Reshape(Gemm(x, w, b)) * c  ->  Reshape(Gemm(x, c w, c b))     where the columns stay the last axis
    layer / c                   ->  likewise
    Conv(c x, w, b)             ->  Conv(x, c w, b)     c one number, x made by other nodes; Gemm and MatMul too

Networks have such scales in front of a sum (LayerScale), or as what is left of a folded normalisation.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.operators import DENSE, REARRANGING, WEIGHTED
from passes.surgery import absorb, drop_unused, is_standard, only_use, producer, set_constant
from passes.weight_layout import by_channels, channel_count, constant_bias, constant_weight

_OPENING = (*REARRANGING, "Add", "Sub", "Mul", "Div", "Cast", "Clip")


class FuseScale(NodePass):
    """Fuse a Mul or Div with a finite constant into the layer before it, if nobody else reads that layer's output."""

    op_types = ("Mul", "Div")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Fuse the product; of several in a row each is fused in turn."""
        for source, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            given = constant_value(other)
            if source is None or given is None or (node.op_type == "Div" and source is not node.inputs[0]):
                continue
            factor = given.astype(np.float64) if node.op_type == "Mul" else _inverse(given)
            if factor is None or not np.isfinite(factor).all():
                return False
            layer = _layer(source)
            row = None if layer is None else _row(layer, source, factor)
            if layer is None or row is None:
                return _scale_readers(graph, node, source, factor)
            _scale(graph, layer, row, biased=True)
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


def _scale_readers(graph: ir.Graph, node: ir.Node, source: ir.Value, factor: NDArray[np.float64]) -> bool:
    """Fuse one number into the layers behind it, where only such read the product; what opens the graph stays."""
    readers = node.outputs[0].uses()
    if factor.size != 1 or node.outputs[0].is_graph_output() or not readers or is_opening(source):
        return False
    if source.shape is None or factor.ndim > len(source.shape):
        return False
    rows: dict[ir.Node, NDArray[np.float64]] = {}
    for layer, position in readers:
        weight = constant_weight(layer) if position == 0 and is_standard(layer, *WEIGHTED) else None
        if weight is None or weight.dtype != np.float32:
            return False
        rows[layer] = np.broadcast_to(factor.reshape(-1), (channel_count(layer, weight.shape),))
    for layer, row in rows.items():
        _scale(graph, layer, row, biased=False)
    inputs = tuple(node.inputs)
    node.outputs[0].replace_all_uses_with(source)
    graph.remove(node, safe=True)
    drop_unused(graph, inputs)
    return True


def is_opening(value: ir.Value | None) -> bool:
    """Tell whether a value is an input of the graph, scaled, shifted and moved.

    What does that says how pictures are to be given, and evens features of a table out, whose sizes differ.
    """
    while value is not None and (node := value.producer()) is not None:
        if not is_standard(node, *_OPENING):
            return False
        value = next((one for one in node.inputs if constant_value(one) is None), None)
    return True


def _scale(graph: ir.Graph, layer: ir.Node, row: NDArray[np.float64], *, biased: bool) -> None:
    weight = np.array(constant_weight(layer), dtype=np.float64, order="C")
    rows = by_channels(layer, weight)
    rows *= row.reshape(len(rows), -1, 1, 1)
    former = tuple(layer.inputs[1:])
    bias = constant_bias(layer, row.size)
    set_constant(graph, layer, 1, weight.astype(np.float32), "weight")
    if biased and bias is not None and len(former) > 1 and former[1] is not None:
        set_constant(graph, layer, 2, (row * bias).astype(np.float32), "bias")
        if layer.op_type == "Gemm":
            layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    drop_unused(graph, former)
