"""Fold BatchNormalization into the weighted layer before it.

``y = g * ((W x + b) - m) / sqrt(v + e) + s``  becomes  ``y = (f W) x + f (b - m) + s``  with  ``f = g / sqrt(v + e)``, per
output channel, computed in float64 (Jacob et al. 2018, section 3.2).
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.fold_constants import constant_value
from passes.pipeline import Outcome
from passes.plan import Refusal

Array = NDArray[np.float64]


class FoldBatchNorm(ir.passes.InPlacePass):
    """Fold every BatchNormalization that stands directly behind a layer.

    1. Conv and Gemm: output channels are axis 0 of the weight (axis 1 of a Gemm without transB).
    2. ConvTranspose: the weight is (in, out / group, ...), so each group owns a slice of axis 0.
    3. Nothing else may read the layer's output, and it may not be a graph output.

    The layer's output takes over the name of the BatchNormalization's. Shared weights are copied, never changed.
    """

    def call(self, model: ir.Model) -> Outcome:
        """Fold; the outcome's refusals name each BatchNormalization that stays, and why."""
        refusals: list[Refusal] = []
        modified = False
        for node in list(model.graph):
            if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
                continue
            reason = _obstacle(node)
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
    if source is None or layer is None or layer.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return f"it stands behind {layer.op_type if layer else 'a graph input'}, not behind Conv, ConvTranspose or Gemm"
    if source.is_graph_output():
        return f"'{source.name}', the output of '{layer.name}', is also an output of the graph"
    if len(source.uses()) > 1:
        return f"'{source.name}', the output of '{layer.name}', is read by other nodes too"
    return _layer_obstacle(layer)


def _layer_obstacle(layer: ir.Node) -> str | None:
    weight = constant_value(layer.inputs[1])
    has_bias = len(layer.inputs) > 2 and layer.inputs[2] is not None
    bias = constant_value(layer.inputs[2]) if has_bias else None
    if weight is None or (has_bias and bias is None):
        return f"the weights of '{layer.name}' are not constant"
    if layer.op_type == "Gemm" and bias is not None and bias.ndim == 2 and bias.shape[0] != 1:
        return f"the bias of '{layer.name}' differs from row to row"
    return None


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    source = node.inputs[0]
    layer = source.producer() if source is not None else None
    assert source is not None and layer is not None
    scale, shift, mean, variance = (_float64(value) for value in node.inputs[1:5])
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    weight = _float64(layer.inputs[1])
    bias = _bias(layer, factor.size)
    _replace_input(graph, layer, 1, _scaled(layer, weight, factor), "weight")
    _replace_input(graph, layer, 2, factor * (bias - mean) + shift, "bias")
    if layer.op_type == "Gemm":
        layer.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    _hand_over(graph, node, source)


def _float64(value: ir.Value | None) -> Array:
    array = constant_value(value)
    assert array is not None
    return array.astype(np.float64)


def _bias(layer: ir.Node, channels: int) -> Array:
    if len(layer.inputs) < 3 or layer.inputs[2] is None:
        return np.zeros(channels)
    bias = _float64(layer.inputs[2]).reshape(-1)
    beta = layer.attributes.get_float("beta", 1.0) if layer.op_type == "Gemm" else 1.0
    return np.broadcast_to(beta * bias, (channels,))


def _scaled(layer: ir.Node, weight: Array, factor: Array) -> Array:
    if layer.op_type == "ConvTranspose":
        groups = layer.attributes.get_int("group", 1)
        per_group = factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        return (weight.reshape(groups, -1, *weight.shape[1:]) * per_group).reshape(weight.shape)
    axis = 1 if layer.op_type == "Gemm" and not layer.attributes.get_int("transB", 0) else 0
    return weight * factor.reshape([-1 if position == axis else 1 for position in range(weight.ndim)])


def _replace_input(graph: ir.Graph, layer: ir.Node, position: int, array: Array, kind: str) -> None:
    """Give the layer a constant of its own; the old one's name is kept when nobody else reads it."""
    data = np.ascontiguousarray(array, dtype=np.float32)
    old = layer.inputs[position] if len(layer.inputs) > position else None
    if old is not None and old.is_initializer() and len(old.uses()) == 1 and not _exposed(old) and old.name:
        old.const_value = ir.Tensor(data, name=old.name)
        old.shape = ir.Shape(data.shape)
        return
    name = _free_name(graph, f"{layer.name}.{kind}")
    new = ir.Value(
        name=name,
        const_value=ir.Tensor(data, name=name),
        shape=ir.Shape(data.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    graph.initializers.add(new)
    if len(layer.inputs) <= position:
        layer.resize_inputs(position + 1)
    layer.replace_input_with(position, new)


def _exposed(value: ir.Value) -> bool:
    return value.is_graph_output() or value.is_graph_input()


def _free_name(graph: ir.Graph, wanted: str) -> str:
    taken = set(graph.initializers) | {value.name for node in graph for value in node.outputs}
    taken |= {value.name for value in graph.inputs}
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


def _hand_over(graph: ir.Graph, node: ir.Node, source: ir.Value) -> None:
    """Remove the node; its name, shape and consumers go to the layer's output."""
    output = node.outputs[0]
    name = output.name
    parameters = [value for value in node.inputs[1:] if value is not None]
    if source.shape is None:
        source.shape = output.shape
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    source.name = name
    for value in dict.fromkeys(parameters):
        if value.is_initializer() and not value.uses() and not _exposed(value):
            graph.initializers.pop(value.name or "")
