"""Where the channels of a layer lie in its weight.

Conv           (out, in / group, taps...)
ConvTranspose  (in, out / group, taps...)
Gemm           (in, out), or (out, in) with transB
MatMul         (in, out), the weight on the right
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def channel_axis(layer: ir.Node, rank: int) -> int | None:
    """Axis of a weight along which the layer's output channels lie; None where it is no single one.

    Args:
        layer: Conv, ConvTranspose, Gemm or MatMul.
        rank: of the weight.

    """
    match layer.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1 if layer.attributes.get_int("group", 1) == 1 else None
        case "Gemm":
            return 0 if layer.attributes.get_int("transB", 0) else 1
        case _:
            return rank - 1


def by_channels(layer: ir.Node, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """View a weight as (groups, outputs of a group, inputs of a group, taps).

    Output channel c of the layer is [c // outputs, c % outputs], input channel likewise.

    Args:
        layer: Conv, ConvTranspose, Gemm or MatMul.
        weight: its weight, contiguous; MatMul's of rank 2. Writing into the view writes into it.

    """
    groups = layer.attributes.get_int("group", 1) if layer.op_type in ("Conv", "ConvTranspose") else 1
    first, second = weight.shape[0] // groups, weight.shape[1]
    view = weight.reshape(groups, first, second, -1)
    return view if channel_axis(layer, 2) == 0 else view.swapaxes(1, 2)
