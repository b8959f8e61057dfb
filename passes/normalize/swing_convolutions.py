"""Let strided convolutions start at a place that moves, while data is made for the network.

    Conv<strides=2>(x)  ->  Pad<reflect, 1>(x) -> Slice(from offset, as large as x) -> Conv<strides=2>

A strided convolution looks at some pixels more often than at others, and the gradient that comes back through it prints
that pattern, a checkerboard, on what is learned. With an offset per axis, 0, 1 or 2, drawn anew for every run, all
pixels take turns (the swing convolution of Genie: Jeon, Lee, Kim, CVPR 2023). Offset 1 is the network as it was.
Offsets are initializers that hold 1, so that the rewritten model is called as before; whoever runs it replaces them.

This is for a copy of the model that teaches; nothing that is shipped is rewritten.
"""

import numpy as np
import onnx_ir as ir

from passes.outcome import Outcome
from passes.plan import Refusal
from passes.surgery import add_constant, free_name, is_standard

_SUFFIX = ".swing"


class SwingConvolutions(ir.passes.InPlacePass):
    """Put a padding and a cropping in front of every convolution with a stride, whatever its kernel and groups.

    A convolution whose map has a size of 1 along an axis has nothing to reflect there, and one whose sizes are open
    cannot be cropped back to them: both stay, and are named in the refusals.
    """

    def call(self, model: ir.Model) -> Outcome:
        """Visit all nodes once; the outcome's refusals name each strided convolution that stays, and why."""
        refusals: list[Refusal] = []
        modified = False
        for node in list(model.graph):
            if not _is_strided(node) or _offset(node) is not None:
                continue
            sizes = _spatial_sizes(node)
            if isinstance(sizes, str):
                refusals.append(Refusal(where=node.name or "", op_type="Conv", reason=sizes))
                continue
            _rewrite(model.graph, node, sizes)
            modified = True
        return Outcome(model, modified, tuple(refusals))


def swing_offsets(model: ir.Model) -> dict[str, int]:
    """List the offsets of a rewritten model, initializers of int64 (axes,) from 0 to 2, with their number of axes."""
    found: dict[str, int] = {}
    for node in model.graph:
        offset = _offset(node) if _is_strided(node) else None
        if offset is not None and offset.const_value is not None:
            found[offset.name or ""] = offset.const_value.size
    return found


def _is_strided(node: ir.Node) -> bool:
    return is_standard(node, "Conv") and any(step != 1 for step in node.attributes.get_ints("strides", []))


def _offset(conv: ir.Node) -> ir.Value | None:
    """Return the offset in front of a convolution that was rewritten; None for any other."""
    source = conv.inputs[0].producer() if conv.inputs[0] is not None else None
    if source is None or not is_standard(source, "Slice") or len(source.inputs) < 2:
        return None
    start = source.inputs[1]
    if start is None or not (start.is_initializer() and _SUFFIX in (start.name or "")):
        return None
    return start


def _spatial_sizes(conv: ir.Node) -> list[int] | str:
    """Sizes of the map that a convolution reads, or why it cannot swing."""
    shape = conv.inputs[0].shape if conv.inputs[0] is not None else None
    sizes = [size for size in list(shape)[2:] if isinstance(size, int)] if shape is not None else []
    if shape is None or len(sizes) != len(shape) - 2:
        return "the sizes of its input are not known"
    if min(sizes) < 2:
        return "its input has a size of 1 along an axis, where there is nothing to reflect"
    return sizes


def _rewrite(graph: ir.Graph, conv: ir.Node, sizes: list[int]) -> None:
    data = conv.inputs[0]
    assert data is not None
    prefix = f"{conv.name or conv.outputs[0].name}{_SUFFIX}"
    axes = len(sizes)
    offset = add_constant(graph, prefix, np.ones(axes, np.int64))
    pads = add_constant(graph, f"{prefix}_pads", np.array(([0, 0] + [1] * axes) * 2, np.int64))
    shape = add_constant(graph, f"{prefix}_sizes", np.array(sizes, np.int64))
    along = add_constant(graph, f"{prefix}_axes", np.arange(2, 2 + axes, dtype=np.int64))
    pad = ir.node("Pad", [data, pads], {"mode": "reflect"}, name=f"{prefix}_pad")
    end = ir.node("Add", [offset, shape], name=f"{prefix}_end")
    crop = ir.node("Slice", [pad.outputs[0], offset, end.outputs[0], along], name=f"{prefix}_crop")
    for node in (pad, end, crop):
        node.outputs[0].name = free_name(graph, f"{node.name}_out")
    assert data.shape is not None
    wide = [*list(data.shape)[:2], *(size + 2 for size in sizes)]
    pad.outputs[0].shape, crop.outputs[0].shape = ir.Shape(wide), ir.Shape(list(data.shape))
    pad.outputs[0].type, crop.outputs[0].type = data.type, data.type
    end.outputs[0].shape, end.outputs[0].type = ir.Shape([axes]), ir.TensorType(ir.DataType.INT64)
    graph.insert_before(conv, [pad, end, crop])
    conv.replace_input_with(0, crop.outputs[0])
