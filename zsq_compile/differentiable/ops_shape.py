"""Operators that move values without changing them, and the arithmetic of shapes."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from zsq_compile.differentiable.arguments import (
    TORCH_TYPES,
    Kernel,
    Numbers,
    Row,
    element_type,
    integer,
    integers,
    refuse,
    same,
    text,
)
from zsq_compile.differentiable.constants import to_tensor


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
    return lambda x: x.permute(range(x.dim() - 1, -1, -1) if order is None else order)


def _concat(node: ir.Node) -> Kernel:
    axis = integer(node, "axis", 1)

    def run(*parts: Tensor) -> Tensor:
        # torch.cat takes a one-dimensional empty tensor of any kind as "nothing"; ONNX shapes agree anyway
        return torch.cat(parts, axis)

    return run


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


def _expand(node: ir.Node) -> Kernel:
    numbers = Numbers()
    return lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, numbers.ints(shape)))


def _tile(node: ir.Node) -> Kernel:
    numbers = Numbers()
    return lambda x, repeats: x.repeat(numbers.ints(repeats))


_PAD_BY_INDEX = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def pad(x: Tensor, begins: Sequence[int], ends: Sequence[int], mode: str, value: float | None) -> Tensor:
    """Pad every axis of ``x``; negative amounts crop. ``mode`` is ONNX's: constant, reflect, edge, wrap."""
    amounts = [amount for pair in zip(reversed(begins), reversed(ends), strict=True) for amount in pair]
    if mode == "constant":
        while amounts and amounts[-2:] == [0, 0]:
            del amounts[-2:]
        return F.pad(x, amounts, value=value) if amounts else x
    if mode == "reflect" and x.dim() == 4 and not any(amounts[4:]) and min(amounts) >= 0:
        return F.pad(x, amounts[:4], mode="reflect")
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin or end:
            x = x.index_select(axis, _pad_indices(x.shape[axis], begin, end, mode).to(x.device))
    return x


def _pad_indices(length: int, begin: int, end: int, mode: str) -> Tensor:
    indices = np.arange(length)[max(-begin, 0) : length - max(-end, 0)]
    around = (max(begin, 0), max(end, 0))
    if mode == "reflect":
        return torch.from_numpy(np.pad(indices, around, mode="reflect"))
    return torch.from_numpy(np.pad(indices, around, mode="edge") if mode == "edge" else np.pad(indices, around, "wrap"))


def _check_mode(node: ir.Node) -> str:
    mode = text(node, "mode", "constant")
    if mode != "constant" and mode not in _PAD_BY_INDEX:
        refuse(node, f"padding mode {mode!r} is not known")
    return mode


def _pad_attributes(node: ir.Node) -> Kernel:
    mode, pads = _check_mode(node), integers(node, "pads", ()) or ()
    attribute = node.attributes.get("value")
    value = 0.0 if attribute is None else attribute.as_float()
    half = len(pads) // 2
    return lambda x: pad(x, pads[:half], pads[half:], mode, value)


def _pad_inputs(node: ir.Node) -> Kernel:
    mode = _check_mode(node)
    amount, constant, along = Numbers(), Numbers(), Numbers()

    def run(x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        amounts = amount.ints(pads)
        half = len(amounts) // 2
        begins, ends = list(amounts[:half]), list(amounts[half:])
        if axes is not None:
            order = [axis % x.dim() for axis in along.ints(axes)]
            begins = _spread(begins, order, x.dim())
            ends = _spread(ends, order, x.dim())
        return pad(x, begins, ends, mode, 0.0 if value is None or not value.numel() else constant.floats(value)[0])

    return run


def _spread(amounts: Sequence[int], axes: Sequence[int], rank: int) -> list[int]:
    full = [0] * rank
    for axis, amount in zip(axes, amounts, strict=True):
        full[axis] = amount
    return full


def _identity(x: Tensor) -> Tensor:
    return x


def _constant(node: ir.Node) -> Kernel:
    for name, dtype in (
        ("value_int", torch.int64),
        ("value_ints", torch.int64),
        ("value_float", torch.float32),
        ("value_floats", torch.float32),
    ):
        if name in node.attributes:
            listed = torch.tensor(node.attributes[name].value, dtype=dtype)
            return lambda: listed
    if "value" not in node.attributes:
        refuse(node, "only dense numeric constants have a tensor here")
    tensor = to_tensor(node.attributes["value"].as_tensor())
    return lambda: tensor


def _constant_of_shape(node: ir.Node) -> Kernel:
    attribute = node.attributes.get("value")
    filling = torch.zeros(1) if attribute is None else to_tensor(attribute.as_tensor())
    numbers = Numbers()
    return lambda shape: filling.reshape(1).repeat(math.prod(numbers.ints(shape))).reshape(numbers.ints(shape))


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return (start + torch.arange(count, device=start.device) * delta).to(start.dtype)


def _eye_like(node: ir.Node) -> Kernel:
    diagonal = integer(node, "k")
    kind = TORCH_TYPES[element_type(node, "dtype")] if "dtype" in node.attributes else None

    def run(x: Tensor) -> Tensor:
        rows, columns = x.shape
        offset = torch.arange(columns, device=x.device) - torch.arange(rows, device=x.device)[:, None]
        return (offset == diagonal).to(kind or x.dtype)

    return run


def _trilu(node: ir.Node) -> Kernel:
    cut = torch.triu if integer(node, "upper", 1) else torch.tril
    numbers = Numbers()
    return lambda x, k=None: cut(x, 0 if k is None else numbers.ints(k)[0])


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

    def run(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        split = x.reshape(batch, channels, height // block, block, width // block, block)
        return split.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * block**2, height // block, width // block)

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
    ("Pad", (2,), _pad_attributes),
    ("Pad", (11, 13, 18, 19, 21, 23, 24, 25), _pad_inputs, (1, 2, 3)),
    ("Identity", (1, 13, 14, 16, 19, 21, 23, 24, 25), same(_identity)),
    ("Constant", (1, 9, 11, 12, 13, 19, 21, 23, 24, 25), _constant),
    ("ConstantOfShape", (9, 20, 21, 23, 24, 25), _constant_of_shape, (0,)),
    ("Range", (11, 27), same(_range)),
    ("EyeLike", (9, 22), _eye_like),
    ("Trilu", (14,), _trilu, (1,)),
    ("DepthToSpace", (1, 11, 13, 28), _depth_to_space),
    ("SpaceToDepth", (1, 13, 28), _space_to_depth),
)
