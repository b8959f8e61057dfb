"""Find dead output channels, whose weights are (nearly) zero, so that they only give their bias.

    layer(x; w, b)[c] = w[c] * x + b[c],  |w[c]| ~ 0   ->   b[c], whatever x is

A BatchNormalization that learned a gamma of about 0 leaves such a filter once it is folded.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.operators import WEIGHTED
from passes.surgery import is_standard, standard_nodes
from passes.value_ranges import never_negative
from passes.weight_layout import by_channels, constant_bias, constant_weight

_SHORT = 1e-3  # of the median filter: such a channel is 60 dB below the others, and 8 bits reach 48 dB


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadChannels:
    """Output channels of one layer that do not depend on its input.

    Attributes:
        node: name of the layer.
        total: number of its output channels.
        constant: dead channels, which always give their bias.
        silent: those of them whose bias a Relu, or a Clip from 0 on, turns into 0.

    """

    node: str
    op_type: str
    total: int
    constant: tuple[int, ...]
    silent: tuple[int, ...]


def find_dead_channels(model: ir.Model) -> tuple[DeadChannels, ...]:
    """Find the dead channels of a model with folded BatchNormalization; layers without are left out."""
    found = (_dead(node) for node in standard_nodes(model.graph, *WEIGHTED))
    return tuple(one for one in found if one is not None)


def _dead(node: ir.Node) -> DeadChannels | None:
    weight = constant_weight(node)
    if weight is None:
        return None
    lengths = filter_lengths(node, weight)
    present = lengths[lengths > 0.0]
    limit = _SHORT * float(np.median(present)) if len(present) else np.inf
    short = np.flatnonzero(lengths <= limit if len(present) else lengths == 0.0)
    if not len(short):
        return None
    bias = constant_bias(node, len(lengths)) if _is_rectified(node.outputs[0]) else None
    silent = short[:0] if bias is None else short[bias[short] <= 0.0]
    return DeadChannels(
        node=node.name or "",
        op_type=node.op_type,
        total=len(lengths),
        constant=tuple(int(channel) for channel in short),
        silent=tuple(int(channel) for channel in silent),
    )


def filter_lengths(node: ir.Node, weight: NDArray[Any]) -> NDArray[np.float64]:
    """(output channels,) Euclidean norm of each filter of a layer; MatMul's weight must be of rank 2."""
    rows = by_channels(node, weight)
    # einsum adds up without a copy of the weights in between
    squares: NDArray[np.float64] = np.einsum("goit,goit->go", rows, rows).reshape(-1).astype(np.float64)
    return np.sqrt(squares)


def _is_rectified(value: ir.Value) -> bool:
    """Tell whether all readers of a value clip it at 0."""
    readers = [use.node for use in value.uses()]
    if not readers or value.is_graph_output():
        return False
    return all(is_standard(node, "Relu", "Clip") and never_negative(node.outputs[0]) for node in readers)
