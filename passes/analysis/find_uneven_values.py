"""Find uneven values, whose size depends on what the network sees: the boxes that survive, the elements that are not 0.

Two networks that compute nearly the same have such values of different sizes, and on other data nothing may be in them.
"""

from collections.abc import Set

import onnx_ir as ir

from passes.operators import BODY_DOMAIN
from passes.surgery import has_subgraph, input_at, is_standard

_COUNTED = frozenset({"NonMaxSuppression", "NonZero", "Unique", "Compress", "SequenceAt", "ConcatFromSequence"})
_SIZED_BY = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Pad", "TopK", "Split", "OneHot", "Upsample", "CenterCropPad"), (1,)),
    **dict.fromkeys(("Slice", "Col2Im"), (1, 2)),
    **dict.fromkeys(("Resize",), (1, 2, 3)),
    **dict.fromkeys(("Range",), (0, 1, 2)),
    **dict.fromkeys(("MaxUnpool",), (2,)),
    **dict.fromkeys(("ConstantOfShape", "HannWindow", "HammingWindow", "BlackmanWindow"), (0,)),
}
"""Positions of the inputs whose numbers say how large an output is."""


def find_uneven_values(model: ir.Model) -> frozenset[str]:
    """Names of the values, graph outputs among them, whose size depends on the numbers that the network is fed.

    A size that the model declares, or that shape inference has written into it, is a fixed one, and so is one that has
    the name of an open size of a graph input.
    """
    graph = model.graph
    fed = [value for value in graph.inputs if not value.is_initializer()]
    open_sizes = {size.value for value in fed for size in value.shape or () if isinstance(size, ir.SymbolicDim)}
    numbers, uneven = set(fed), set[ir.Value]()
    for node in graph:
        sizes = [input_at(node, place) for place in _SIZED_BY.get(node.op_type, ()) if is_standard(node, node.op_type)]
        counted = is_standard(node, *_COUNTED) or _has_bodies(node)
        if counted or numbers.intersection(sizes) or uneven.intersection(node.inputs):
            uneven.update(value for value in node.outputs if not _is_fixed(value, open_sizes - {None}))
        told = uneven if is_standard(node, "Shape", "Size") else numbers
        if _has_bodies(node) or told.intersection(node.inputs):
            numbers.update(node.outputs)
    return frozenset(str(value.name) for value in uneven)


def find_even_ends(model: ir.Model) -> tuple[str, ...]:
    """Names of the values at which two networks can be compared.

    Graph outputs that are not uneven, and the computed floats right in front of what is.
    """
    uneven, graph = find_uneven_values(model), model.graph
    ends = [str(value.name) for value in graph.outputs if value.name not in uneven]
    makers = [node for node in graph if any(value.name in uneven for value in node.outputs)]
    read = [value for node in makers for value in node.inputs if value is not None and value.producer() is not None]
    floats = (value for value in read if value.dtype == ir.DataType.FLOAT and value.const_value is None)
    return tuple(dict.fromkeys([*ends, *(str(value.name) for value in floats if value.name not in uneven)]))


def _has_bodies(node: ir.Node) -> bool:
    return node.domain == BODY_DOMAIN or has_subgraph(node)


def _is_fixed(value: ir.Value, open_sizes: Set[str | None]) -> bool:
    sizes = [None] if value.shape is None else value.shape
    return all(isinstance(size, int) or (size is not None and size.value in open_sizes) for size in sizes)
