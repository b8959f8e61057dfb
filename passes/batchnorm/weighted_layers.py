"""The layers that a BatchNormalization may have been folded into: a row of weights and a bias per channel."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.surgery import is_standard
from passes.weight_layout import by_channels

Array = NDArray[np.float64]
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightedLayer:
    """One Conv, ConvTranspose, Gemm or MatMul with constant weights.

    Attributes:
        node: the node.
        value: name of what it makes, its bias included.
        shape: of its weight, as the node has it.
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

    Left out are layers whose weights or bias are computed, and MatMul with a stack of matrices. The constant that an
    Add behind a layer adds to every channel counts as its bias.
    """
    found = (_layer(node) for node in model.graph if is_standard(node, *_LAYERS))
    return tuple(layer for layer in found if layer is not None)


def _layer(node: ir.Node) -> WeightedLayer | None:
    weight = constant_value(node.inputs[1])
    own = node.inputs[2] if len(node.inputs) > 2 else None
    given = constant_value(own)
    if weight is None or weight.ndim < 2 or (node.op_type == "MatMul" and weight.ndim != 2):
        return None
    if own is not None and given is None:
        return None
    rows = by_channels(node, np.ascontiguousarray(weight, dtype=np.float64))
    filters = rows.reshape(rows.shape[0] * rows.shape[1], -1) * node.attributes.get_float("alpha", 1.0)
    value, bias = node.outputs[0], np.zeros(len(filters))
    if given is not None:
        if given.size not in (1, len(filters)):
            return None
        bias = bias + node.attributes.get_float("beta", 1.0) * given.reshape(-1).astype(np.float64)
    value, added = _added(value, len(filters), 1 if "Conv" in node.op_type else -1, weight.ndim)
    if _is_normalised(value):
        return None
    return WeightedLayer(node=node, value=value.name or "", shape=weight.shape, filters=filters, bias=bias + added)


def _added(value: ir.Value, channels: int, axis: int, rank: int) -> tuple[ir.Value, Array]:
    """Look through an Add of one number per channel; returns the value behind it and what was added."""
    uses = list(value.uses())
    node = uses[0].node if len(uses) == 1 and not value.is_graph_output() else None
    if node is None or not is_standard(node, "Add"):
        return value, np.zeros(channels)
    addend = next((array for array in map(constant_value, node.inputs) if array is not None), None)
    if addend is None or addend.ndim > rank:
        return value, np.zeros(channels)
    shape = (1,) * (rank - addend.ndim) + addend.shape
    if any(size != 1 and position != axis % rank for position, size in enumerate(shape)) or addend.size > channels:
        return value, np.zeros(channels)
    return node.outputs[0], np.broadcast_to(addend.reshape(-1).astype(np.float64), (channels,))


def _is_normalised(value: ir.Value) -> bool:
    return any(is_standard(use.node, "BatchNormalization") and use.idx == 0 for use in value.uses())
