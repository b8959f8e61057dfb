"""Fold BatchNormalization into the weighted layer before it.

``y = g * ((W x + b) - m) / sqrt(v + e) + s``  becomes  ``y = (f W) x + f (b - m) + s``  with  ``f = g / sqrt(v + e)``,
per output channel, computed in float64 (Jacob et al. 2018, section 3.2).
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.outcome import Outcome
from passes.plan import Refusal
from passes.surgery import absorb, drop_unused, is_standard, set_constant

Array = NDArray[np.float64]
_LAYERS = ("Conv", "ConvTranspose", "Gemm")


class FoldBatchNorm(ir.passes.InPlacePass):
    """Fold every BatchNormalization that stands directly behind a layer.

    1. Conv and Gemm: output channels are axis 0 of the weight (axis 1 of a Gemm without transB).
    2. ConvTranspose: the weight is (in, out / group, ...), so each group owns a slice of axis 0.
    3. Nothing else may read the layer's output, and it may not be a graph output.

    The layer's output takes over the name of the BatchNormalization's. Shared weights are copied, never changed.
    BatchNormalizations whose nodes are named in ``keep`` stay.
    """

    def __init__(self, *, keep: Collection[str] = ()) -> None:
        super().__init__()
        self._keep = frozenset(keep)

    def call(self, model: ir.Model) -> Outcome:
        """Fold; the outcome's refusals name each BatchNormalization that stays, and why."""
        refusals: list[Refusal] = []
        modified = False
        for node in list(model.graph):
            if not is_standard(node, "BatchNormalization"):
                continue
            reason = "it was asked to stay" if node.name in self._keep else _obstacle(node)
            if reason is None:
                _fold(model.graph, node)
                modified = True
            else:
                refusals.append(Refusal(where=node.name or "", op_type=node.op_type, reason=reason))
        return Outcome(model, modified, tuple(refusals))


def _obstacle(node: ir.Node) -> str | None:
    """Why the node cannot be folded, or None."""
    source = node.inputs[0]
    layer = source.producer() if source is not None else None
    if node.attributes.get_int("training_mode", 0) or sum(bool(output.name) for output in node.outputs) > 1:
        return "it is in training mode"
    if not node.attributes.get_int("spatial", 1):
        return "it has moments for every position (spatial=0)"
    if any(constant_value(value) is None for value in node.inputs[1:5]):
        return "its parameters are not constant"
    if source is None or layer is None or not is_standard(layer, *_LAYERS):
        return f"it stands behind {layer.op_type if layer else 'a graph input'}, not behind {', '.join(_LAYERS)}"
    if source.is_graph_output():
        return f"'{source.name}', the output of '{layer.name}', is also an output of the graph"
    if len(source.uses()) > 1:
        return f"'{source.name}', the output of '{layer.name}', is read by other nodes too"
    return _layer_obstacle(layer)


def _layer_obstacle(layer: ir.Node) -> str | None:
    weight = constant_value(layer.inputs[1])
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    constant = constant_value(bias)
    if weight is None or (bias is not None and constant is None):
        return f"the weights of '{layer.name}' are not constant"
    if layer.op_type == "Gemm" and constant is not None and constant.ndim == 2 and constant.shape[0] != 1:
        return f"the bias of '{layer.name}' differs from row to row"
    return None


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    source = node.inputs[0]
    layer = source.producer() if source is not None else None
    assert source is not None and layer is not None
    scale, shift, mean, variance = (_float64(value) for value in node.inputs[1:5])
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    weight, bias = _scaled(layer, factor), factor * (_bias(layer, factor.size) - mean) + shift
    former = layer.inputs[1:]
    set_constant(graph, layer, 1, weight.astype(np.float32), "weight")
    set_constant(graph, layer, 2, bias.astype(np.float32), "bias")
    drop_unused(graph, former)
    if layer.op_type == "Gemm":
        layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    absorb(graph, node, source)


def _float64(value: ir.Value | None) -> Array:
    array = constant_value(value)
    assert array is not None
    return array.astype(np.float64)


def _bias(layer: ir.Node, channels: int) -> Array:
    if len(layer.inputs) < 3 or layer.inputs[2] is None:
        return np.zeros(channels)
    beta = layer.attributes.get_float("beta", 1.0) if layer.op_type == "Gemm" else 1.0
    return np.broadcast_to(beta * _float64(layer.inputs[2]).reshape(-1), (channels,))


def _scaled(layer: ir.Node, factor: Array) -> Array:
    weight = _float64(layer.inputs[1])
    if layer.op_type == "ConvTranspose":
        groups = layer.attributes.get_int("group", 1)
        per_group = factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        return (weight.reshape(groups, -1, *weight.shape[1:]) * per_group).reshape(weight.shape)
    axis = 1 if layer.op_type == "Gemm" and not layer.attributes.get_int("transB", 0) else 0
    weight *= factor.reshape([-1 if position == axis else 1 for position in range(weight.ndim)])  # a copy already
    return weight
