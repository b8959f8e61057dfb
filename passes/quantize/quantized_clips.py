"""What becomes of a Clip whose result is quantized: it goes where the grid does its work, or is written to be fused."""

import numpy as np
import onnx_ir as ir

from backends.target import NumberFormat
from passes.plan import Scale
from passes.surgery import add_constant, is_standard, only_use, set_input
from passes.value_ranges import clip_limits

_FAR = 2.0**18  # steps: beyond any grid, also where its scale is learned; a quotient above 2^31 is not safe


def before_redundant_clip(value: ir.Value, scale: Scale, number_format: NumberFormat) -> ir.Value:
    """Return what a Clip reads that a Clip of the codes makes redundant, which no runtime folds; else the value."""
    node = value.producer()
    limits = clip_limits(node) if node is not None and is_standard(node, "Clip") else None
    if node is None or limits is None or node.inputs[0] is None:
        return value
    low, high = (np.rint(limit / scale.scale) + scale.zero_point for limit in limits)
    return value if low > number_format.qmin or high < number_format.qmax else node.inputs[0]


def close_clip(graph: ir.Graph, value: ir.Value, scale: Scale) -> None:
    """Give a Clip that only a quantizer reads the limits that it lacks, far beyond the grid.

    ONNX Runtime does not fuse a lower limit as it should beside an upper one that is left out.
    """
    node, use = value.producer(), only_use(value)
    if node is None or not is_standard(node, "Clip") or use is None or not is_standard(use[0], "QuantizeLinear"):
        return
    for position, limit in enumerate(clip_limits(node) or ()):
        if np.isinf(limit):
            far = np.asarray(np.copysign(_FAR * scale.scale, limit), np.float32)
            set_input(node, 1 + position, add_constant(graph, f"{node.name}_limit", far))
