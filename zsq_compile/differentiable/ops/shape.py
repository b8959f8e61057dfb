"""Operators of shapes and data movement."""

import math
from collections.abc import Sequence
from itertools import zip_longest

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import Input, Kernel, Numbers, Row, integer, integers, same, text


def _shape(node: ir.Node) -> Kernel:
    start, stop = integer(node, "start"), node.attributes.get_int("end", None)
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


def _squeeze(node: ir.Node) -> Kernel:
    every, numbers = "axes" not in node.attributes, Numbers(integers(node, "axes"))
    return lambda x, axes=None: x.squeeze() if axes is None and every else x.squeeze(numbers.ints(axes))


def _unsqueeze(node: ir.Node) -> Kernel:
    numbers = Numbers(integers(node, "axes"))

    def run(x: Tensor, axes: Input = None) -> Tensor:
        added = numbers.ints(axes)
        rank = x.dim() + len(added)
        for axis in sorted(axis % rank for axis in added):
            x = x.unsqueeze(axis)
        return x

    return run


def _transpose(node: ir.Node) -> Kernel:
    order = integers(node, "perm")
    return lambda x: x.permute(order or tuple(reversed(range(x.dim()))))


def _concat(node: ir.Node) -> Kernel:
    axis = integer(node, "axis", 1)
    return lambda *parts: torch.cat(parts, axis)


def _even_sizes(length: int, parts: int) -> tuple[int, ...]:
    size = -(-length // parts)
    return tuple(max(0, min(size, length - index * size)) for index in range(parts))


def _split(node: ir.Node) -> Kernel:
    axis, parts = integer(node, "axis"), integer(node, "num_outputs", len(node.outputs))
    numbers = Numbers(integers(node, "split"))
    return lambda x, sizes=None: torch.split(x, list(numbers.ints(sizes) or _even_sizes(x.shape[axis], parts)), axis)


def _sliced(x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Tensor:
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


def _slice(node: ir.Node) -> Kernel:
    first, last, along = (Numbers(integers(node, name)) for name in ("starts", "ends", "axes"))
    stride = Numbers()

    def run(x: Tensor, starts: Input = None, ends: Input = None, axes: Input = None, steps: Input = None) -> Tensor:
        begin = first.ints(starts)
        order = along.ints(axes) or range(len(begin))
        return _sliced(x, begin, last.ints(ends), order, stride.ints(steps) or (1,) * len(begin))

    return run


def _broadcast(first: Sequence[int], second: Sequence[int]) -> list[int]:
    pairs = zip_longest(reversed(first), reversed(second), fillvalue=1)
    return [b if a == 1 else a for a, b in pairs][::-1]


def _expand(node: ir.Node) -> Kernel:
    numbers = Numbers()
    return lambda x, shape: x.expand(_broadcast(x.shape, numbers.ints(shape)))


def _tile(node: ir.Node) -> Kernel:
    numbers = Numbers()
    return lambda x, repeats: x.repeat(numbers.ints(repeats))


def _depth_to_space(node: ir.Node) -> Kernel:
    block = integer(node, "blocksize")
    crd = text(node, "mode", "DCR") == "CRD"

    def run(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        depth = channels // block**2
        shape, order = (
            ((depth, block, block), (0, 1, 4, 2, 5, 3)) if crd else ((block, block, depth), (0, 3, 4, 1, 5, 2))
        )
        split = x.reshape(batch, *shape, height, width).permute(order)
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
    ("Squeeze", (1, 11, 13, 21, 23, 24, 25), _squeeze, (1,)),
    ("Unsqueeze", (1, 11, 13, 21, 23, 24, 25), _unsqueeze, (1,)),
    ("Transpose", (1, 13, 21, 23, 24, 25), _transpose),
    ("Concat", (4, 11, 13), _concat),
    ("Split", (2, 11, 13, 18), _split, (1,)),
    ("Slice", (1, 10, 11, 13), _slice, (1, 2, 3, 4)),
    ("Expand", (8, 13), _expand, (1,)),
    ("Tile", (6, 13), _tile, (1,)),
    ("Identity", (1, 13, 14, 16, 19, 21, 23, 24, 25), same(lambda x: x)),
    ("DepthToSpace", (1, 11, 13, 28), _depth_to_space),
    ("SpaceToDepth", (1, 13, 28), _space_to_depth),
)
