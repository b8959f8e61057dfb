"""The layers that a BatchNormalization may have been folded into."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.operators import CONVOLUTIONS, WEIGHTED
from passes.surgery import is_standard, only_use, standard_nodes
from passes.weight_layout import by_channels, constant_bias, constant_weight

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightedLayer:
    """One layer with a constant weight.

    Attributes:
        value: name of its output, behind an Add of its bias.
        shape: of its weight.
        filters: (C, K) weights of each output channel, float64.
        bias: (C,), zeros where there is none.

    """

    node: ir.Node
    value: str
    shape: tuple[int, ...]
    filters: Array
    bias: Array

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name or ""

    def filters_of(self, weight: NDArray[np.generic]) -> Array:
        """(C, K) rows of a weight of ``shape``."""
        rows = by_channels(self.node, np.ascontiguousarray(weight, dtype=np.float64))
        return rows.reshape(rows.shape[0] * rows.shape[1], -1)


def folded_layers(model: ir.Model) -> tuple[WeightedLayer, ...]:
    """Layers of the main graph, in its order, that have no BatchNormalization node behind them.

    Left out are layers whose weights or bias are computed, and MatMul with a stack of matrices. A constant that an Add
    behind a layer adds to every channel counts as its bias.
    """
    found = (_layer(node) for node in standard_nodes(model.graph, *WEIGHTED))
    return tuple(layer for layer in found if layer is not None)


def _layer(node: ir.Node) -> WeightedLayer | None:
    weight = constant_weight(node)
    if weight is None:
        return None
    rows = by_channels(node, np.ascontiguousarray(weight, dtype=np.float64))
    filters = rows.reshape(rows.shape[0] * rows.shape[1], -1) * node.attributes.get_float("alpha", 1.0)
    bias = constant_bias(node, len(filters))
    value, added = _added(node.outputs[0], len(filters), 1 if node.op_type in CONVOLUTIONS else -1, weight.ndim)
    if bias is None or any(is_standard(use.node, "BatchNormalization") and use.idx == 0 for use in value.uses()):
        return None
    return WeightedLayer(node=node, value=value.name or "", shape=weight.shape, filters=filters, bias=bias + added)


def _added(value: ir.Value, channels: int, axis: int, rank: int) -> tuple[ir.Value, Array]:
    """Return the value behind an Add of one number per channel, and what is added."""
    use = only_use(value)
    if use is None or not is_standard(use[0], "Add"):
        return value, np.zeros(channels)
    node = use[0]
    addend = next((array for array in map(constant_value, node.inputs) if array is not None), None)
    if addend is None or addend.ndim > rank:
        return value, np.zeros(channels)
    shape = (1,) * (rank - addend.ndim) + addend.shape
    if any(size != 1 and position != axis % rank for position, size in enumerate(shape)) or addend.size > channels:
        return value, np.zeros(channels)
    return node.outputs[0], np.broadcast_to(addend.reshape(-1).astype(np.float64), (channels,))
