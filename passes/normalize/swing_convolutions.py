"""Swing convolutions: shift the input of strided convolutions at random, while data is synthesized.

    Conv<strides=2>(x)  ->  Pad<reflect, 1>(x) -> Slice(from offset, as large as x) -> Conv<strides=2>

A strided convolution reads some pixels more often than others, so its gradient leaves a checkerboard pattern on learned
images. With an offset per axis, 0, 1 or 2, drawn anew for every run, all pixels take turns (Genie: Jeon, Lee, Kim, CVPR
2023). Offset 1 is the network as it was. Offsets are initializers of value 1, which the caller replaces for each run.

This is for a copy of the teacher; what ships is never rewritten.
"""

import numpy as np
import onnx_ir as ir

from passes.graph_pass import NodePass
from passes.surgery import add_constant, free_name, input_at, is_standard, producer, standard_nodes

_SUFFIX = ".swing"


class SwingConvolutions(NodePass):
    """Pad and crop in front of strided convolutions; refused where a spatial size is open or 1."""

    op_types = ("Conv",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool | str:
        """Insert the nodes in front of the convolution."""
        if not _is_strided(node) or _offset(node) is not None:
            return False
        sizes = _spatial_sizes(node)
        if isinstance(sizes, str):
            return sizes
        _insert_shift(graph, node, sizes)
        return True


def swing_offsets(model: ir.Model) -> dict[str, int]:
    """Return the number of axes of every offset of a rewritten model: int64 initializers (axes,), values 0 to 2."""
    found: dict[str, int] = {}
    for node in standard_nodes(model.graph, "Conv"):
        offset = _offset(node) if _is_strided(node) else None
        if offset is not None and offset.const_value is not None:
            found[offset.name or ""] = offset.const_value.size
    return found


def _is_strided(node: ir.Node) -> bool:
    return any(step != 1 for step in node.attributes.get_ints("strides", []))


def _offset(conv: ir.Node) -> ir.Value | None:
    """Return the offset in front of a convolution that was rewritten; None for any other."""
    source = producer(conv, 0)
    start = input_at(source, 1) if source is not None and is_standard(source, "Slice") else None
    return start if start is not None and start.is_initializer() and _SUFFIX in (start.name or "") else None


def _spatial_sizes(conv: ir.Node) -> list[int] | str:
    """Spatial sizes of the input, or why the convolution is refused."""
    shape = conv.inputs[0].shape if conv.inputs[0] is not None else None
    sizes = [size for size in list(shape)[2:] if isinstance(size, int)] if shape is not None else []
    if shape is None or len(sizes) != len(shape) - 2:
        return "the sizes of its input are not known"
    if min(sizes) < 2:
        return "its input has a size of 1 along an axis, where there is nothing to reflect"
    return sizes


def _insert_shift(graph: ir.Graph, conv: ir.Node, sizes: list[int]) -> None:
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
