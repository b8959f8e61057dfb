"""Find output channels that say nothing: their filter is (nearly) zero, so they make their bias and nothing else.

    layer(x; w, b)[c] = w[c] * x + b[c],  |w[c]| ~ 0   ->   b[c], whatever x is

A BatchNormalization that learned a gamma of about 0 leaves such a filter once it is folded.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.surgery import is_standard
from passes.value_ranges import never_negative
from passes.weight_layout import by_channels

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SHORT = 1e-3  # of the median filter: what such a channel says is 60 dB below the others, and 8 bits reach 48 dB


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadChannels:
    """Output channels of one layer that do not depend on its input.

    Attributes:
        node: name of the layer.
        op_type: its operator.
        total: number of its output channels.
        constant: channels that make the same number everywhere, silent ones included.
        silent: those of them whose number a Relu, or a Clip from 0 on, turns into 0.

    """

    node: str
    op_type: str
    total: int
    constant: tuple[int, ...]
    silent: tuple[int, ...]


def find_dead_channels(model: ir.Model) -> tuple[DeadChannels, ...]:
    """Look at every layer of a model with folded BatchNormalization; layers without dead channels are left out."""
    found = (_dead(node) for node in model.graph if is_standard(node, *_LAYERS))
    return tuple(one for one in found if one is not None)


def _dead(node: ir.Node) -> DeadChannels | None:
    weight = constant_value(node.inputs[1])
    if weight is None or weight.ndim < 2 or (node.op_type == "MatMul" and weight.ndim != 2):
        return None
    lengths = filter_lengths(node, weight)
    present = lengths[lengths > 0.0]
    limit = _SHORT * float(np.median(present)) if len(present) else np.inf
    short = np.flatnonzero(lengths <= limit if len(present) else lengths == 0.0)
    if not len(short):
        return None
    silent = short[_bias(node, len(lengths))[short] <= 0.0] if _is_rectified(node.outputs[0]) else short[:0]
    return DeadChannels(
        node=node.name or "",
        op_type=node.op_type,
        total=len(lengths),
        constant=tuple(int(channel) for channel in short),
        silent=tuple(int(channel) for channel in silent),
    )


def filter_lengths(node: ir.Node, weight: NDArray[Any]) -> NDArray[np.float64]:
    """(output channels,) Euclidean length of each filter of a Conv, ConvTranspose, Gemm or MatMul of rank 2."""
    rows = by_channels(node, weight)
    # einsum adds up without a copy of the weights in between
    squares: NDArray[np.float64] = np.einsum("goit,goit->go", rows, rows).reshape(-1).astype(np.float64)
    return np.sqrt(squares)


def _bias(node: ir.Node, channels: int) -> NDArray[np.float64]:
    given = constant_value(node.inputs[2]) if len(node.inputs) > 2 else None
    if given is None or given.size not in (1, channels):
        return np.zeros(channels)
    return np.broadcast_to(given.reshape(-1).astype(np.float64), (channels,))


def _is_rectified(value: ir.Value) -> bool:
    """Whether all that is read of a value is what of it is above 0."""
    readers = [use.node for use in value.uses()]
    if not readers or value.is_graph_output():
        return False
    return all(is_standard(node, "Relu", "Clip") and never_negative(node.outputs[0]) for node in readers)
