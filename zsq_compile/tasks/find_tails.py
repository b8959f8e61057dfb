"""Read off the graph how the columns of an output come about: which sigmoid, softmax or arithmetic ends them.

An output is walked back through operators that only move, join or squash numbers, to the layers that compute them. What
was joined along the axis of the columns falls apart again into stretches: four box numbers, an objectness, classes.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from passes.constants import constant_value
from passes.surgery import input_at, is_standard
from zsq_compile.metrics import class_axis
from zsq_compile.tasks.find_layers import (
    ARITHMETIC,
    PASSING,
    PICKING,
    RESHAPING,
    SQUASHING,
    channel_axis,
    is_layer,
    last_layers,
    sizes_of,
)
from zsq_compile.tasks.find_stretches import (
    Squash,
    Stretch,
    agree,
    are_shares,
    cut_between,
    merge_neighbours,
    spread_over,
)

_DEEPEST = 80
_LAST_AXIS_FROM = 13  # opset from which on a softmax without an axis is along the last


def read_stretches(value: ir.Value, axis: int) -> tuple[Stretch, ...]:
    """Return stretches of an output along an axis, those that come about alike as one; empty where nothing tells."""
    found = _Walk().read(value, axis)
    return tuple(merge_neighbours(found)) if found else ()


class _Walk:
    """One walk back; remembers what it found for values that are read on several paths."""

    def __init__(self) -> None:
        self._known: dict[tuple[ir.Value, int], list[Stretch] | None] = {}
        self._depth = 0

    def read(self, value: ir.Value, axis: int) -> list[Stretch] | None:
        """Stretches along an axis; None where nothing tells."""
        key = (value, axis)
        if key in self._known or self._depth > _DEEPEST:
            return self._known.get(key)
        self._known[key] = None  # of a loop
        self._depth += 1
        self._known[key] = self._look(value, axis)
        self._depth -= 1
        return self._known[key]

    def _look(self, value: ir.Value, axis: int) -> list[Stretch] | None:
        shape, node = sizes_of(value), value.producer()
        size = shape[axis] if shape is not None and axis < len(shape) else None
        if value.const_value is not None:
            return None if size is None else [Stretch(size=size, squash="constant", layers=frozenset())]
        if node is None or is_layer(node):
            name = frozenset({str(value.name)})
            own = node is not None and shape is not None and axis == channel_axis(node, len(shape))
            return None if size is None else [Stretch(size=size, squash="none", layers=name, channels=own)]
        if is_standard(node, *SQUASHING):
            return self._squashed(node, axis)
        if is_standard(node, *PASSING):
            return self._first(node, axis)
        if is_standard(node, *RESHAPING):
            return self._reshaped(node, value, axis)
        if is_standard(node, "Transpose"):
            order = node.attributes.get_ints("perm", tuple(reversed(range(len(shape or ())))))
            return self._first(node, order[axis]) if axis < len(order) else None
        if is_standard(node, "Concat"):
            return self._joined(node, value, axis)
        if is_standard(node, "Split", "Slice"):
            return self._cut(node, value, axis)
        if is_standard(node, *PICKING):
            return self._picked(node, axis, size)
        if is_standard(node, *ARITHMETIC):
            return self._combined(node, value, axis)
        return None if size is None else [Stretch(size=size, squash="arithmetic", layers=frozenset())]

    def _first(self, node: ir.Node, axis: int) -> list[Stretch] | None:
        source = node.inputs[0]
        return None if source is None else self.read(source, axis)

    def _squashed(self, node: ir.Node, axis: int) -> list[Stretch] | None:
        source = node.inputs[0]
        found = None if source is None else self.read(source, axis)
        if source is None or found is None:
            return None
        squash = SQUASHING[node.op_type]
        if squash in ("softmax", "log softmax", "unit length"):
            along = squashed_axis(node)
            whole = sum(one.size for one in found)
            layers = frozenset(name for one in found for name in one.layers)
            squash = squash if along == axis else "arithmetic"
            own = all(one.channels for one in found)
            return [Stretch(size=whole, squash=squash, layers=layers, channels=own)]
        return [replace(one, squash=squash if one.squash != "constant" else "constant") for one in found]

    def _reshaped(self, node: ir.Node, value: ir.Value, axis: int) -> list[Stretch] | None:
        source = node.inputs[0]
        before, after = (None if source is None else sizes_of(source)), sizes_of(value)
        if source is None or before is None or after is None or after[axis] is None:
            return None
        size = after[axis] or 0
        same = _same_axis(before, after, axis)
        if same is not None:
            return self.read(source, same)
        inner = math.prod(one or 0 for one in after[axis + 1 :])
        for place in range(len(before)):  # columns of several anchors in one axis
            wide, behind = before[place], math.prod(one or 0 for one in before[place + 1 :])
            if wide and wide % max(size, 1) == 0 and (behind == inner or (behind and inner % behind == 0)):
                found = self.read(source, place)
                if found and len({one.squash for one in found}) == 1:
                    layers = frozenset(name for one in found for name in one.layers)
                    own = all(one.channels for one in found)
                    return [Stretch(size=size, squash=found[0].squash, layers=layers, channels=own)]
        layers = frozenset(str(one.outputs[0].name) for one in last_layers(source))
        squash = _common_squash(source)
        return [Stretch(size=size, squash=squash, layers=layers)]

    def _joined(self, node: ir.Node, value: ir.Value, axis: int) -> list[Stretch] | None:
        rank = len(sizes_of(value) or ()) or next((len(s) for v in node.inputs if v and (s := sizes_of(v))), 0)
        along = node.attributes.get_int("axis", 0)
        parts = [None if source is None else self.read(source, axis) for source in node.inputs]
        if not rank or any(part is None for part in parts):
            return None
        if along % rank == axis:
            return [one for part in parts for one in part or ()]
        return agree([merge_neighbours(part or []) for part in parts])

    def _cut(self, node: ir.Node, value: ir.Value, axis: int) -> list[Stretch] | None:
        found = self._first(node, axis)
        shape, source = sizes_of(value), node.inputs[0]
        if found is None or source is None or shape is None or shape[axis] is None:
            return found if found is None or node.op_type == "Split" else None
        whole, size = sum(one.size for one in found), shape[axis] or 0
        if size == whole:
            return found
        start = _start_of(node, value, axis, whole, size)
        return None if start is None else cut_between(found, start, start + size)

    def _picked(self, node: ir.Node, axis: int, size: int | None) -> list[Stretch] | None:
        found = self._first(node, axis) if not (is_standard(node, "Gather") and axis == _gather_axis(node)) else None
        if found is not None and size is not None and sum(one.size for one in found) == size:
            return found
        source = node.inputs[0]
        if size is None or source is None:
            return None
        layers = frozenset(str(one.outputs[0].name) for one in last_layers(source))
        return [Stretch(size=size, squash=_common_squash(source), layers=layers)]

    def _combined(self, node: ir.Node, value: ir.Value, axis: int) -> list[Stretch] | None:
        shape = sizes_of(value)
        varying = [source for source in node.inputs if source is not None and constant_value(source) is None]
        if not varying or shape is None or shape[axis] is None:
            return None
        parts = [part for source in varying if (part := self._aligned(source, len(shape), axis)) is not None]
        if len(parts) != len(varying):
            return None
        size = shape[axis] or 0
        parts = [spread_over(part, size) for part in parts]
        whole = agree([merge_neighbours(part) for part in parts])
        if whole is None or sum(one.size for one in whole) != size:
            layers = frozenset(name for part in parts for one in part for name in one.layers)
            whole = [Stretch(size=size, squash="arithmetic", layers=layers)]
        if is_standard(node, "Div") and "ReduceL2" in {one.op_type for one in _makers(node)}:
            return [replace(one, squash="unit length") for one in whole]
        if is_standard(node, "Mul") and all(are_shares(part) for part in parts) and len(varying) > 1:
            layers = frozenset(name for part in parts for one in part for name in one.layers)
            return [replace(one, squash="sigmoid", layers=layers) for one in whole]
        if len(varying) == 1 and _is_per_column(node, varying[0], len(shape), axis):
            return [replace(one, squash="none" if one.squash == "none" else "arithmetic") for one in whole]
        return [replace(one, squash="arithmetic") for one in whole]

    def _aligned(self, source: ir.Value, rank: int, axis: int) -> list[Stretch] | None:
        shape = sizes_of(source)
        own = axis - (rank - len(shape)) if shape is not None else axis
        return self.read(source, own) if own >= 0 else []


def squashed_axis(node: ir.Node) -> int | None:
    """Axis along which a softmax or a normalisation goes; None where several axes are taken together."""
    source = node.inputs[0]
    shape = None if source is None else sizes_of(source)
    if shape is None:
        return None
    version = node.version or (node.graph.opset_imports.get("") if node.graph is not None else None)
    along_one = (version or _LAST_AXIS_FROM) >= _LAST_AXIS_FROM or node.op_type == "LpNormalization"
    axis = node.attributes.get_int("axis", -1 if along_one else 1) % len(shape)
    if along_one:
        return axis
    wide = [one for one in range(axis, len(shape)) if shape[one] != 1]
    return wide[0] if len(wide) == 1 else (axis if not wide else None)


def _makers(node: ir.Node) -> list[ir.Node]:
    """Return the nodes in front of a node, through clips and spreading."""
    found: list[ir.Node] = []
    pending = [source for source in node.inputs if source is not None]
    while pending:
        maker = pending.pop().producer()
        if maker is None:
            continue
        found.append(maker)
        if is_standard(maker, "Clip", "Expand", "Max", "Add", "Identity", "Unsqueeze"):
            pending += [source for source in maker.inputs if source is not None]
    return found


def _common_squash(value: ir.Value) -> Squash:
    """Squash of a whole value whose axes cannot be told apart any more."""
    shape = sizes_of(value)
    axis = None if shape is None else class_axis(tuple(one or 0 for one in shape))
    node = value.producer()
    while node is not None and is_standard(node, *PASSING, *RESHAPING, "Transpose"):
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is not None and is_standard(node, *SQUASHING):
        return SQUASHING[node.op_type]
    found = None if axis is None else _Walk().read(value, axis)
    kinds = {one.squash for one in found or ()}
    return kinds.pop() if len(kinds) == 1 else "arithmetic"


def _same_axis(before: Sequence[int | None], after: Sequence[int | None], axis: int) -> int | None:
    """Axis of a value in front of a reshaping that is this one behind it."""
    for place, size in enumerate(before):
        if size != after[axis]:
            continue
        for one, other in ((before[place + 1 :], after[axis + 1 :]), (before[:place], after[:axis])):
            if None not in (*one, *other) and math.prod(map(int, map(_known, one))) == math.prod(
                map(int, map(_known, other))
            ):
                return place
    return None


def _known(size: int | None) -> int:
    return size or 0


def _gather_axis(node: ir.Node) -> int:
    source = node.inputs[0]
    shape = None if source is None else sizes_of(source)
    return node.attributes.get_int("axis", 0) % len(shape) if shape else 0


def _start_of(node: ir.Node, value: ir.Value, axis: int, whole: int, size: int) -> int | None:
    """First column that a Split or a Slice takes; None where that is computed."""
    rank = len(sizes_of(value) or ())
    if is_standard(node, "Split"):
        if node.attributes.get_int("axis", 0) % rank != axis:
            return None
        start = 0
        for output in node.outputs:
            if output is value:
                return start
            start += (sizes_of(output) or (0,) * rank)[axis] or 0
        return None
    starts, axes = constant_value(input_at(node, 1)), constant_value(input_at(node, 3))
    if starts is None:
        return None
    along = [int(one) % rank for one in axes.reshape(-1)] if axes is not None else list(range(starts.size))
    if axis not in along:
        return None
    start = int(starts.reshape(-1)[along.index(axis)])
    start = start + whole if start < 0 else start
    return start if 0 <= start <= whole - size else None


def _is_per_column(node: ir.Node, varying: ir.Value, rank: int, axis: int) -> bool:
    """Whether the constants that an operator combines a value with are the same at every place."""
    if is_standard(node, "Pow", "Neg"):
        return False
    for source in node.inputs:
        constant = None if source is None or source is varying else constant_value(source)
        if constant is None:
            continue
        own = axis - (rank - constant.ndim)
        if constant.size != (constant.shape[own] if 0 <= own < constant.ndim else 1):
            return False
    return True
