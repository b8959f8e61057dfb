"""Padding and cropping."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from zsq_compile.differentiable.arguments import Kernel, Numbers, Row, integers, refuse, text

_MODES = ("constant", "reflect", "edge", "wrap")


def pad(x: Tensor, begins: Sequence[int], ends: Sequence[int], mode: str, value: float | None) -> Tensor:
    """Pad every axis of ``x``; negative amounts crop. ``mode`` is ONNX's: constant, reflect, edge, wrap."""
    amounts = [amount for pair in zip(reversed(begins), reversed(ends), strict=True) for amount in pair]
    if mode == "constant":
        while amounts and amounts[-2:] == [0, 0]:
            del amounts[-2:]
        return functional.pad(x, amounts, value=value) if amounts else x
    if mode == "reflect" and x.dim() == 4 and not any(amounts[4:]) and min(amounts) >= 0:
        return functional.pad(x, amounts[:4], mode="reflect")
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin or end:
            x = x.index_select(axis, _pad_indices(x.shape[axis], begin, end, mode).to(x.device))
    return x


def _pad_indices(length: int, begin: int, end: int, mode: str) -> Tensor:
    indices = np.arange(length)[max(-begin, 0) : length - max(-end, 0)]
    around = (max(begin, 0), max(end, 0))
    if mode == "reflect":
        return torch.from_numpy(np.pad(indices, around, "reflect"))
    return torch.from_numpy(np.pad(indices, around, "edge") if mode == "edge" else np.pad(indices, around, "wrap"))


def _check_mode(node: ir.Node) -> str:
    mode = text(node, "mode", "constant")
    if mode not in _MODES:
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


def _center_crop_pad(node: ir.Node) -> Kernel:
    axes = integers(node, "axes")
    numbers = Numbers()

    def run(x: Tensor, shape: Tensor) -> Tensor:
        wanted = numbers.ints(shape)
        order = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes]
        begins, ends = [0] * x.dim(), [0] * x.dim()
        for axis, want in zip(order, wanted, strict=True):
            missing = want - x.shape[axis]
            # the odd one is cut or added at the end
            begins[axis] = missing // 2 if missing > 0 else -(-missing // 2)
            ends[axis] = missing - begins[axis]
        return pad(x, begins, ends, "constant", 0.0)

    return run


ROWS: tuple[Row, ...] = (
    ("Pad", (2,), _pad_attributes),
    ("Pad", (11, 13, 18, 19, 21, 23, 24, 25), _pad_inputs, (1, 2, 3)),
    ("CenterCropPad", (18,), _center_crop_pad, (1,)),
)
