"""Find layers that hand their channels on to one other layer, through nothing that minds a change of their scale.

W1 -> f -> W2    with  f(s x) = s f(x)  for every  s > 0: nothing at all, Identity, Relu, LeakyRelu, PRelu
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from passes.plan import Refusal
from passes.surgery import is_standard

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_DENSE = ("Gemm", "MatMul")
_HOMOGENEOUS = ("Identity", "Relu", "LeakyRelu", "PRelu")
_BENT = ("Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Celu", "Selu", "Gelu", "Mish", "Softplus")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerPair:
    """Two layers, the second of which is all that reads the first.

    Attributes:
        first: Conv, ConvTranspose, Gemm or MatMul; its weight and bias are constant float32.
        activation: what stands between them, or None.
        second: of the same kind as the first; its weight is constant float32.

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
    """All pairs of a graph in its order, and the layers that are no first one of a pair, with the reason."""
    pairs, refusals = [], []
    for node in graph:
        if is_standard(node, *_CONVOLUTIONS, *_DENSE):
            found = _pair(node)
            if isinstance(found, LayerPair):
                pairs.append(found)
            else:
                refusals.append(Refusal(where=node.name or "", op_type=node.op_type, reason=found))
    return tuple(pairs), tuple(refusals)


def _pair(first: ir.Node) -> LayerPair | str:
    """Pair that begins with this layer, or why there is none."""
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
    if is_standard(second, *_BENT):
        return f"'{second.name}' ({second.op_type}) behind it does not scale with its input"
    if not is_standard(second, *_CONVOLUTIONS, *_DENSE):
        return f"it leads to '{second.name}' ({second.op_type}), which has no weight to take up the scale"
    if position != 0:
        return f"it is not the data of '{second.name}'"
    reason = _layer_obstacle(second)
    if reason is not None:
        return reason
    if (first.op_type in _DENSE) != (second.op_type in _DENSE):
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
    if layer.op_type in _DENSE and (weight.ndim != 2 or layer.attributes.get_int("transA", 0) != 0):
        return f"the matrices of '{layer.name}' are not (rows, channels)"
    return None


def _bias_obstacle(layer: ir.Node) -> str | None:
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    computed = bias is not None and constant_value(bias) is None
    return f"the bias of '{layer.name}' is not constant" if computed else None
