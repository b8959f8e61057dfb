"""Where the channels of a layer lie in its weight, and its constant weight and bias.

Conv           (out, in / group, taps...)
ConvTranspose  (in, out / group, taps...)
Gemm           (in, out), or (out, in) with transB
MatMul         (in, out), the weight on the right
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.operators import CONVOLUTIONS
from passes.surgery import input_at

_Number = TypeVar("_Number", bound=np.number[Any])


def channel_axis(layer: ir.Node, rank: int) -> int | None:
    """Axis of a weight of that rank along which the layer's output channels lie; None where it is no single one."""
    match layer.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1 if layer.attributes.get_int("group", 1) == 1 else None
        case "Gemm":
            return 0 if layer.attributes.get_int("transB", 0) else 1
        case _:
            return rank - 1


def by_channels(layer: ir.Node, weight: NDArray[_Number]) -> NDArray[_Number]:
    """View a weight as (groups, outputs of a group, inputs of a group, taps).

    Output channel c of the layer is [c // outputs, c % outputs], input channel likewise. Writing into the view writes
    into the weight, which must be contiguous, and MatMul's of rank 2.
    """
    groups = layer.attributes.get_int("group", 1) if layer.op_type in CONVOLUTIONS else 1
    first, second = weight.shape[0] // groups, weight.shape[1]
    view = weight.reshape(groups, first, second, -1)
    return view if channel_axis(layer, 2) == 0 else view.swapaxes(1, 2)


def channel_count(layer: ir.Node, shape: Sequence[int]) -> int:
    """Count the output channels of a layer whose weight has that shape."""
    axis = channel_axis(layer, len(shape))
    return shape[axis] if axis is not None else shape[1] * layer.attributes.get_int("group", 1)


def constant_weight(layer: ir.Node) -> NDArray[np.generic] | None:
    """Weight of a layer, at least of rank 2; None where it is computed, or a stack of matrices."""
    weight = constant_value(layer.inputs[1])
    if weight is None or weight.ndim < 2 or (layer.op_type == "MatMul" and weight.ndim != 2):
        return None
    return weight


def constant_bias(layer: ir.Node, channels: int) -> NDArray[np.float64] | None:
    """(channels,) what a layer adds to its outputs, zeros without a bias; None where it is computed or no row."""
    given = input_at(layer, 2)
    bias = np.zeros(()) if given is None else constant_value(given)
    if bias is None or bias.size not in (1, channels) or bias.size != (bias.shape or (1,))[-1]:
        return None
    beta = layer.attributes.get_float("beta", 1.0) if layer.op_type == "Gemm" else 1.0
    return np.broadcast_to(beta * bias.reshape(-1).astype(np.float64), (channels,))
