"""Write means over places as global pooling, which targets run in integers.

ReduceMean(x, all spatial axes, keepdims=1)        ->  GlobalAveragePool(x)
ReduceMean(x, all spatial axes, keepdims=0)        ->  Flatten(GlobalAveragePool(x))
ReduceMean(ReduceMean(x, a), b)                    ->  ReduceMean(x, a and b)
ReduceSum(x, axes) / n, or times 1 / n             ->  ReduceMean(x, axes)     n the number of what is summed up
ReduceMean(Transpose(x, NHWC), [1, 2], keepdims=0) ->  ReduceMean(x, [2, 3], keepdims=0)
"""

import math

import numpy as np
import onnx_ir as ir

from passes.constants import constant_axes, constant_number
from passes.graph_pass import NodePass
from passes.normalize.fuse_norm import is_moment
from passes.operators import CONVOLUTIONS
from passes.surgery import (
    add_constant,
    drop_unused,
    input_at,
    is_standard,
    only_use,
    producer,
    put_behind,
    set_input,
)

_ALONG_PLACES = frozenset({*CONVOLUTIONS, "BatchNormalization", "InstanceNormalization", "MaxPool", "AveragePool"})
_ACTIVATIONS = "Relu LeakyRelu PRelu Elu Selu Celu Clip Sigmoid HardSigmoid HardSwish Tanh Softplus Mish Gelu"
_EACH_BY_ITSELF = frozenset(
    [
        *_ACTIVATIONS.split(),
        "Identity",
        "Cast",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Max",
        "Min",
        "Concat",
        "Slice",
        "Pad",
    ]
)


class UnifyMeans(NodePass):
    """Apply the rules above; ReduceMean needs constant axes and an input of known rank, 3 or more.

    1. A mean and a variance of a normalisation are no pooling: 8 bits would move all that they are taken from.
    2. Of three axes, the last must be places: tokens have their channels there.
    """

    op_types = ("ReduceMean", "Mul", "Div")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Replace the node."""
        changed = node.op_type != "ReduceMean" and _divided_sum(graph, node)
        if node.op_type != "ReduceMean":
            return False
        changed |= _merge(graph, node) or _swap(graph, node)
        return _pool(graph, node) or changed


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    """Axes of a reduction, None where they are computed or the rank is not known."""
    source = node.inputs[0]
    return None if source is None or source.shape is None else constant_axes(input_at(node, 1), len(source.shape))


def _divided_sum(graph: ir.Graph, node: ir.Node) -> bool:
    """Let the sum be a mean, and the node go."""
    for position in (0, 1) if node.op_type == "Mul" else (0,):
        total, factor = producer(node, position), constant_number(node.inputs[1 - position])
        axes = None if total is None or not is_standard(total, "ReduceSum") else _axes(total)
        if total is None or not axes or factor is None or only_use(total.outputs[0]) is None:
            continue
        source = total.inputs[0]
        assert source is not None and source.shape is not None
        sizes = [source.shape[axis] for axis in axes]
        count = math.prod(size if isinstance(size, int) else 0 for size in sizes)
        if count == 0 or not math.isclose(factor if node.op_type == "Div" else 1.0 / factor, count, rel_tol=1e-6):
            continue
        former = tuple(node.inputs)
        node.op_type = "ReduceMean"
        node.attributes["keepdims"] = ir.AttrInt64("keepdims", total.attributes.get_int("keepdims", 1))
        node.replace_input_with(0, source)
        node.replace_input_with(1, total.inputs[1])
        graph.remove(total, safe=True)
        drop_unused(graph, former)
        return True
    return False


def _merge(graph: ir.Graph, node: ir.Node) -> bool:
    """Take the mean over the axes of the mean in front as well."""
    inner = producer(node, 0)
    if inner is None or not is_standard(inner, "ReduceMean") or only_use(inner.outputs[0]) is None:
        return False
    first, second, keep = _axes(inner), _axes(node), node.attributes.get_int("keepdims", 1)
    source = inner.inputs[0]
    if not first or not second or source is None or source.shape is None:
        return False
    if inner.attributes.get_int("keepdims", 1):
        if not keep and set(first) - set(second):
            return False  # axes of size 1 would be left
        total = {*first, *second}
    else:
        if keep:
            return False
        left = [axis for axis in range(len(source.shape)) if axis not in first]
        total = {*first, *(left[axis] for axis in second)}
    _reduce(graph, node, source, sorted(total))
    graph.remove(inner, safe=True)
    return True


def _swap(graph: ir.Graph, node: ir.Node) -> bool:
    """Take the mean over places in front of a Transpose that moves the channels behind them."""
    move, axes = producer(node, 0), _axes(node)
    if move is None or not is_standard(move, "Transpose") or not axes or node.attributes.get_int("keepdims", 1) == 1:
        return False
    source, order = move.inputs[0], list(move.attributes.get_ints("perm", []))
    if (
        source is None
        or len(order) < 4
        or order != [0, *range(2, len(order)), 1]
        or axes != tuple(range(1, len(order) - 1))
    ):
        return False
    _reduce(graph, node, source, list(range(2, len(order))))
    return True


def _reduce(graph: ir.Graph, node: ir.Node, source: ir.Value, axes: list[int]) -> None:
    former = node.inputs[1]
    set_input(node, 1, add_constant(graph, f"{node.name}.axes", np.array(axes, np.int64)))
    node.replace_input_with(0, source)
    drop_unused(graph, [former])


def _pool(graph: ir.Graph, node: ir.Node) -> bool:
    source, axes = node.inputs[0], _axes(node)
    if source is None or source.shape is None or axes is None or len(source.shape) < 3:
        return False
    rank = len(source.shape)
    if axes != tuple(range(2, rank)) or is_moment(node) or (rank == 3 and not _has_places(source)):
        return False
    keep = node.attributes.get_int("keepdims", 1)
    former = input_at(node, 1)
    node.op_type = "GlobalAveragePool"
    node.attributes.clear()
    node.resize_inputs(1)
    drop_unused(graph, [former])
    if not keep:
        _flatten(graph, node, rank)
    return True


def _has_places(value: ir.Value) -> bool:
    """Tell whether what makes a value of rank 3 shows that its last axis are places, and not channels."""
    seen = {value}
    left = [value]
    while left:
        node = left.pop().producer()
        if node is None:
            continue
        if is_standard(node, *_ALONG_PLACES) or _unfolds(node):
            return True
        if is_standard(node, *_EACH_BY_ITSELF):
            fresh = {one for one in node.inputs if one is not None and one.shape is not None and len(one.shape) == 3}
            left += fresh - seen
            seen |= fresh
    return False


def _unfolds(node: ir.Node) -> bool:
    """Tell whether a node makes one axis of the places of (N, C, H, W)."""
    before, after = node.inputs[0] if node.inputs else None, node.outputs[0]
    if not is_standard(node, "Reshape") or before is None or before.shape is None or after.shape is None:
        return False
    return len(before.shape) >= 4 and isinstance(after.shape[1], int) and before.shape[1] == after.shape[1]


def _flatten(graph: ir.Graph, node: ir.Node, rank: int) -> None:
    """Put a Flatten behind the pooling, which takes over the name and readers of its output."""
    pooled = node.outputs[0]
    flatten = ir.node("Flatten", [pooled], {"axis": 1}, name=f"{node.name}_flatten")
    put_behind(graph, flatten, f"{pooled.name}_pooled")
    flat = flatten.outputs[0]
    if flat.shape is not None:
        pooled.shape = ir.Shape([*list(flat.shape)[:2], *[1] * (rank - 2)])
