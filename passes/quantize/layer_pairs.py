"""Find pairs of layers between which channels can be rescaled.

W1 -> f -> W2    with  f(s x) = s f(x)  for every  s > 0: nothing at all, Identity, Relu, LeakyRelu, PRelu
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from passes.operators import DENSE, WEIGHTED
from passes.plan import Refusal
from passes.surgery import input_at, is_standard, standard_nodes

_HOMOGENEOUS = ("Identity", "Relu", "LeakyRelu", "PRelu")
_NONLINEAR = ("Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Celu", "Selu", "Gelu", "Mish", "Softplus")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerPair:
    """Two layers, convolutions or matrix products, with constant float32 weights, and the activation between them.

    Nothing but the second layer reads the values between them, and the bias of the first one is constant.
    """

    first: ir.Node
    activation: ir.Node | None
    second: ir.Node

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values between the layers."""
        nodes = (self.first,) if self.activation is None else (self.first, self.activation)
        return tuple(str(node.outputs[0].name) for node in nodes)


def find_pairs(graph: ir.Graph) -> tuple[tuple[LayerPair, ...], tuple[Refusal, ...]]:
    """All pairs in graph order, and a refusal for each layer that is not the first one of a pair."""
    found = [(node, _pair(node)) for node in standard_nodes(graph, *WEIGHTED)]
    pairs = tuple(pair for _, pair in found if isinstance(pair, LayerPair))
    return pairs, tuple(Refusal.of(node, reason) for node, reason in found if isinstance(reason, str))


def _pair(first: ir.Node) -> LayerPair | str:
    """Pair whose first layer this is, or why there is none."""
    reason = _layer_obstacle(first) or _bias_obstacle(first) or _unshared(first.outputs[0])
    if reason is not None:
        return reason
    second, position = _reader(first.outputs[0])
    activation = None
    if is_standard(second, *_HOMOGENEOUS) and position == 0:
        activation = second
        reason = _unshared(activation.outputs[0])
        if reason is not None:
            return reason
        second, position = _reader(activation.outputs[0])
    if is_standard(second, *_NONLINEAR):
        return f"'{second.name}' ({second.op_type}) behind it does not scale with its input"
    if not is_standard(second, *WEIGHTED):
        return f"it leads to '{second.name}' ({second.op_type}), which has no weight to absorb the scale"
    if position != 0:
        return f"it is not the data of '{second.name}'"
    reason = _layer_obstacle(second)
    if reason is not None:
        return reason
    if (first.op_type in DENSE) != (second.op_type in DENSE):
        return f"the channels of '{second.name}' ({second.op_type}) lie along another axis"
    return LayerPair(first=first, activation=activation, second=second)


def _reader(value: ir.Value) -> tuple[ir.Node, int]:
    """Return the first node that reads the value, and at which position."""
    return next((use.node, use.idx) for use in value.uses())


def _unshared(value: ir.Value) -> str | None:
    """Why the value may not change: None if exactly one node reads it, once."""
    if value.is_graph_output():
        return f"'{value.name}' is an output of the graph"
    count = len(value.uses())
    return None if count == 1 else f"'{value.name}' is read {count} times"


def _layer_obstacle(layer: ir.Node) -> str | None:
    """Why the channels of a layer's weight cannot be scaled, or None."""
    weight = constant_value(layer.inputs[1])
    if weight is None:
        return f"the weight of '{layer.name}' is not constant"
    if weight.dtype != np.float32:
        return f"the weight of '{layer.name}' is {weight.dtype}, not float32"
    if layer.op_type in DENSE and (weight.ndim != 2 or layer.attributes.get_int("transA", 0) != 0):
        return f"the matrices of '{layer.name}' are not (rows, channels)"
    readers = layer.inputs[1].uses() if layer.inputs[1] is not None else ()
    return f"the weight of '{layer.name}' is read {len(readers)} times" if len(readers) > 1 else None


def _bias_obstacle(layer: ir.Node) -> str | None:
    bias = input_at(layer, 2)
    computed = bias is not None and constant_value(bias) is None
    return f"the bias of '{layer.name}' is not constant" if computed else None
