"""Operators that move values without changing them."""

import math
from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import (
    Kernel,
    Numbers,
    Row,
    integer,
    integers,
    same,
    text,
)


def _shape(node: ir.Node) -> Kernel:
    start = integer(node, "start")
    end = node.attributes.get("end")
    stop = None if end is None else end.as_int()
    return lambda x: torch.tensor(x.shape[start:stop], dtype=torch.int64)


def _size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _reshape(node: ir.Node) -> Kernel:
    keep_zero = bool(integer(node, "allowzero"))
    numbers = Numbers()

    def run(x: Tensor, shape: Tensor) -> Tensor:
        target = numbers.ints(shape)
        if not keep_zero and 0 in target:
            target = tuple(x.shape[axis] if size == 0 else size for axis, size in enumerate(target))
        if -1 in target and 0 in target:  # torch calls the free size ambiguous when the tensor is empty
            rest = math.prod(size for size in target if size not in (-1, 0))
            target = tuple(x.numel() // max(rest, 1) if size == -1 else size for size in target)
        return x.reshape(target)

    return run


def _flatten(node: ir.Node) -> Kernel:
    axis = integer(node, "axis", 1)

    def run(x: Tensor) -> Tensor:
        split = axis if axis >= 0 else axis + x.dim()
        return x.reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:]))

    return run


def _squeeze(x: Tensor, axes: Sequence[int] | None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _squeeze_attribute(node: ir.Node) -> Kernel:
    axes = integers(node, "axes")
    return lambda x: _squeeze(x, axes)


def _squeeze_input(node: ir.Node) -> Kernel:
    numbers = Numbers()
    return lambda x, axes=None: _squeeze(x, None if axes is None else numbers.ints(axes))


def _unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _unsqueeze_attribute(node: ir.Node) -> Kernel:
    axes = integers(node, "axes", ()) or ()
    return lambda x: _unsqueeze(x, axes)


def _unsqueeze_input(node: ir.Node) -> Kernel:
    numbers = Numbers()
    return lambda x, axes: _unsqueeze(x, numbers.ints(axes))


def _transpose(node: ir.Node) -> Kernel:
    order = integers(node, "perm")
    return lambda x: x.permute(tuple(range(x.dim() - 1, -1, -1)) if order is None else order)


def _concat(node: ir.Node) -> Kernel:
    axis = integer(node, "axis", 1)

    return lambda *parts: torch.cat(parts, axis)


def _even_sizes(length: int, parts: int) -> list[int]:
    size = -(-length // parts)
    return [max(0, min(size, length - index * size)) for index in range(parts)]


def _split_attribute(node: ir.Node) -> Kernel:
    axis, sizes, parts = integer(node, "axis"), integers(node, "split"), len(node.outputs)
    return lambda x: torch.split(x, list(sizes or _even_sizes(x.shape[axis], parts)), axis)


def _split_input(node: ir.Node) -> Kernel:
    axis = integer(node, "axis")
    parts = integer(node, "num_outputs", len(node.outputs))
    numbers = Numbers()

    def run(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        lengths = _even_sizes(x.shape[axis], parts) if sizes is None else list(numbers.ints(sizes))
        return torch.split(x, lengths, axis)

    return run


def _slice(x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Tensor:
    window = [slice(None)] * x.dim()
    flipped = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = x.shape[axis]
        if step > 0:
            window[axis] = slice(start, end, step)
            continue
        # torch has no negative step: flip the axis and count from its other end
        first, last, _ = slice(start, end, step).indices(length)
        flipped.append(axis)
        window[axis] = slice(length - 1 - first, max(length - 1 - last, 0), -step)
    if flipped:
        x = x.flip(flipped)
    return x[tuple(window)]


def _slice_attributes(node: ir.Node) -> Kernel:
    starts, ends = integers(node, "starts", ()) or (), integers(node, "ends", ()) or ()
    axes = integers(node, "axes", range(len(starts))) or ()
    return lambda x: _slice(x, starts, ends, axes, (1,) * len(starts))


def _slice_inputs(node: ir.Node) -> Kernel:
    first, last, along, stride = Numbers(), Numbers(), Numbers(), Numbers()

    def run(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        begin = first.ints(starts)
        order = range(len(begin)) if axes is None else along.ints(axes)
        return _slice(x, begin, last.ints(ends), order, (1,) * len(begin) if steps is None else stride.ints(steps))

    return run


def _broadcast(first: Sequence[int], second: Sequence[int]) -> list[int]:
    longest = max(len(first), len(second))
    pairs = zip((*(1,) * (longest - len(first)), *first), (*(1,) * (longest - len(second)), *second), strict=True)
    return [b if a == 1 else a for a, b in pairs]


def _expand(node: ir.Node) -> Kernel:
    numbers = Numbers()
    return lambda x, shape: x.expand(_broadcast(x.shape, numbers.ints(shape)))


def _tile(node: ir.Node) -> Kernel:
    numbers = Numbers()
    return lambda x, repeats: x.repeat(numbers.ints(repeats))


def _identity(x: Tensor) -> Tensor:
    return x


def _depth_to_space(node: ir.Node) -> Kernel:
    block = integer(node, "blocksize")
    columns_first = text(node, "mode", "DCR") == "CRD"

    def run(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        depth = channels // block**2
        if columns_first:
            split = x.reshape(batch, depth, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
        else:
            split = x.reshape(batch, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
        return split.reshape(batch, depth, height * block, width * block)

    return run


def _space_to_depth(node: ir.Node) -> Kernel:
    block = integer(node, "blocksize")
    order = (0, 1, 3, 5, 2, 4) if text(node, "mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)

    def run(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        split = x.reshape(batch, channels, height // block, block, width // block, block)
        return split.permute(order).reshape(batch, channels * block**2, height // block, width // block)

    return run


ROWS: tuple[Row, ...] = (
    ("Shape", (1, 13, 15, 19, 21, 23, 24, 25), _shape, (0,)),
    ("Size", (1, 13, 19, 21, 23, 24, 25), same(_size), (0,)),
    ("Reshape", (5, 13, 14, 19, 21, 23, 24, 25), _reshape, (1,)),
    ("Flatten", (1, 9, 11, 13, 21, 23, 24, 25), _flatten),
    ("Squeeze", (1, 11), _squeeze_attribute),
    ("Squeeze", (13, 21, 23, 24, 25), _squeeze_input, (1,)),
    ("Unsqueeze", (1, 11), _unsqueeze_attribute),
    ("Unsqueeze", (13, 21, 23, 24, 25), _unsqueeze_input, (1,)),
    ("Transpose", (1, 13, 21, 23, 24, 25), _transpose),
    ("Concat", (4, 11, 13), _concat),
    ("Split", (2, 11), _split_attribute),
    ("Split", (13, 18), _split_input, (1,)),
    ("Slice", (1,), _slice_attributes),
    ("Slice", (10, 11, 13), _slice_inputs, (1, 2, 3, 4)),
    ("Expand", (8, 13), _expand, (1,)),
    ("Tile", (6, 13), _tile, (1,)),
    ("Identity", (1, 13, 14, 16, 19, 21, 23, 24, 25), same(_identity)),
    ("DepthToSpace", (1, 11, 13, 28), _depth_to_space),
    ("SpaceToDepth", (1, 13, 28), _space_to_depth),
)
