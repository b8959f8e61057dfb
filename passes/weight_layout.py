"""Where the channels of a layer lie in its weight.

Conv           (out, in / group, taps...)
ConvTranspose  (in, out / group, taps...)
Gemm           (in, out), or (out, in) with transB
MatMul         (in, out), the weight on the right
"""

import onnx_ir as ir


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
