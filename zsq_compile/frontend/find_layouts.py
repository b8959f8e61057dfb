"""Which inputs of a graph take pictures, and in which layout: told by what the graph does with them.

From an input on, the graph is followed through what leaves a picture a picture (arithmetic with constants, casts,
padding, resizing, cuts and joins) to the first node that gives its layout away: a convolution reads channels first, and
a Transpose puts them where they were not. Sizes decide where no such node is met.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from zsq_compile.data.input_spec import PICTURE_CHANNELS, InputSpec, Layout

_FOLLOWED = (
    *("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Neg", "Abs", "Sqrt", "Log", "Exp", "Min", "Max", "Clip", "Relu"),
    *("Pad", "Resize", "Upsample", "Slice", "Split", "Gather", "Unsqueeze", "Squeeze", "Concat"),
)
_CHANNELS_FIRST = (
    *("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "SpaceToDepth", "DepthToSpace", "LRN"),
    *("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool"),
    *("BatchNormalization", "InstanceNormalization"),
)
_PERMUTED: Mapping[tuple[int, ...], Layout] = {(0, 3, 1, 2): "NHWC", (0, 2, 3, 1): "NCHW"}
_SMALLEST_SIDE = 8  # of what sizes alone make a picture with its channels last


def find_layouts(proto: onnx.ModelProto, inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the specs with the layout of those that take pictures: floats or bytes, of 1, 3 or 4 channels."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return tuple(replace(spec, layout=_layout(readers, spec)) for spec in inputs)


def _layout(readers: Mapping[str, Sequence[onnx.NodeProto]], spec: InputSpec) -> Layout | None:
    if (
        len(spec.shape) != 4
        or spec.batch_axis != 0
        or not (np.issubdtype(spec.dtype, np.floating) or spec.dtype == np.uint8)
    ):
        return None
    _, first, rows, last = spec.shape
    possible: set[Layout] = set()
    possible |= {"NCHW"} if first in PICTURE_CHANNELS else set()
    possible |= {"NHWC"} if last in PICTURE_CHANNELS else set()
    told = _told(readers, spec.name)
    if told is not None or not possible:
        return told if told in possible else None
    if first in (1, 3):
        return "NCHW"
    is_large = min(int(first or 0), int(rows or 0)) >= _SMALLEST_SIDE
    return "NHWC" if last in (1, 3) and is_large else None


def _told(readers: Mapping[str, Sequence[onnx.NodeProto]], name: str) -> Layout | None:
    """Layout that the first node gives away; None where there is none."""
    waiting, seen = deque([name]), {name}
    while waiting:
        for node in readers.get(waiting.popleft(), ()):
            if node.op_type == "Transpose":
                perm = next((tuple(one.ints) for one in node.attribute if one.name == "perm"), ())
                if perm in _PERMUTED:
                    return _PERMUTED[perm]
            elif node.op_type in _CHANNELS_FIRST:
                return "NCHW"
            fresh = [one for one in node.output if one not in seen] if node.op_type in _FOLLOWED else []
            seen.update(fresh)
            waiting.extend(fresh)
    return None
