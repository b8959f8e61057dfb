"""Fold BatchNormalization into the weighted layer before it.

``y = g * ((W x + b) - m) / sqrt(v + e) + s``  becomes  ``y = (f W) x + f (b - m) + s``  with  ``f = g / sqrt(v + e)``,
per output channel, computed in float64 (Jacob et al. 2018, section 3.2).
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.graph_pass import NodePass
from passes.operators import WITH_BIAS
from passes.surgery import absorb, drop_unused, input_at, is_standard, producer, set_constant
from passes.weight_layout import by_channels, constant_bias

Array = NDArray[np.float64]


class FoldBatchNorm(NodePass):
    """Fold every BatchNormalization that stands directly behind a layer whose output nothing else reads.

    The layer's output takes over the name of the BatchNormalization's. Shared weights are copied, never changed.
    BatchNormalizations whose nodes are named in ``keep`` are refused.
    """

    op_types = ("BatchNormalization",)

    def __init__(self, *, keep: Collection[str] = ()) -> None:
        super().__init__()
        self._keep = frozenset(keep)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool | str:
        """Fold the node."""
        reason = "it is to be kept" if node.name in self._keep else _obstacle(node)
        if reason is None:
            _fold(graph, node)
        return reason or True


def _obstacle(node: ir.Node) -> str | None:
    """Why the node cannot be folded, or None."""
    source, layer = node.inputs[0], producer(node, 0)
    if (reason := parameter_obstacle(node)) is not None:
        return reason
    if source is None or layer is None or not (is_standard(layer, *WITH_BIAS) or _multiplies_rows(layer)):
        return f"it stands behind {layer.op_type if layer else 'a graph input'}, not behind {', '.join(WITH_BIAS)}"
    if source.is_graph_output():
        return f"'{source.name}', the output of '{layer.name}', is also an output of the graph"
    if len(source.uses()) > 1:
        return f"'{source.name}', the output of '{layer.name}', is read by other nodes too"
    return _layer_obstacle(layer)


def parameter_obstacle(node: ir.Node) -> str | None:
    """Why a BatchNormalization is no constant factor and offset for each channel, or None."""
    if node.attributes.get_int("training_mode", 0) or sum(bool(output.name) for output in node.outputs) > 1:
        return "it is in training mode"
    if not node.attributes.get_int("spatial", 1):
        return "it has moments for every position (spatial=0)"
    if any(constant_value(value) is None for value in node.inputs[1:5]):
        return "its parameters are not constant"
    return None


def affine_of(node: ir.Node) -> tuple[Array, Array, Array]:
    """For ``factor * (x - mean) + shift``, what a BatchNormalization without obstacle makes: the three, (C,) each."""
    scale, shift, mean, variance = (_float64(value) for value in node.inputs[1:5])
    return scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5)), mean, shift


def _multiplies_rows(layer: ir.Node) -> bool:
    """Tell whether a layer is a MatMul of rows, which a bias makes a Gemm."""
    data = layer.inputs[0]
    return is_standard(layer, "MatMul") and data is not None and data.shape is not None and len(data.shape) == 2


def _layer_obstacle(layer: ir.Node) -> str | None:
    weight, bias = constant_value(layer.inputs[1]), input_at(layer, 2)
    constant = constant_value(bias)
    if weight is None or (bias is not None and constant is None):
        return f"the weights of '{layer.name}' are not constant"
    if layer.op_type == "MatMul" and weight.ndim != 2:
        return f"the weight of '{layer.name}' is no matrix"
    if layer.op_type == "Gemm" and constant is not None and constant.ndim == 2 and constant.shape[0] != 1:
        return f"the bias of '{layer.name}' differs from row to row"
    return None


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    source, layer = node.inputs[0], producer(node, 0)
    assert source is not None and layer is not None
    factor, mean, shift = affine_of(node)
    weight, bias = np.ascontiguousarray(_float64(layer.inputs[1])), constant_bias(layer, factor.size)
    assert bias is not None
    rows = by_channels(layer, weight)
    rows *= factor.reshape(len(rows), -1, 1, 1)
    bias = factor * (bias - mean) + shift
    former = layer.inputs[1:]
    set_constant(graph, layer, 1, weight.astype(np.float32), "weight")
    set_constant(graph, layer, 2, bias.astype(np.float32), "bias")
    drop_unused(graph, former)
    if layer.op_type == "MatMul":
        layer.op_type = "Gemm"
    if layer.op_type == "Gemm":
        layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    absorb(graph, node, source)


def _float64(value: ir.Value | None) -> Array:
    array = constant_value(value)
    assert array is not None
    return array.astype(np.float64)
