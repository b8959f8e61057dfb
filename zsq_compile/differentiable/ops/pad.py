"""Padding and cropping."""

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from zsq_compile.differentiable.arguments import Input, Kernel, Numbers, Row, integers, number, refuse, text
from zsq_compile.differentiable.windows import split_pads

_MODES = ("constant", "reflect", "edge", "wrap")


def pad(x: Tensor, begins: Sequence[int], ends: Sequence[int], mode: str, value: float | None) -> Tensor:
    """Pad every axis of ``x``; negative amounts crop. ``mode`` is ONNX's: constant, reflect, edge, wrap."""
    amounts = split_pads(begins, ends)
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
    return torch.from_numpy(np.pad(indices, around, cast(Literal["reflect", "edge", "wrap"], mode)))


def _pad(node: ir.Node) -> Kernel:
    mode = text(node, "mode", "constant")
    if mode not in _MODES:
        refuse(node, f"padding mode {mode!r} is not known")
    amount, constant, along = Numbers(integers(node, "pads")), Numbers((number(node, "value"),)), Numbers()

    def run(x: Tensor, pads: Input = None, value: Input = None, axes: Input = None) -> Tensor:
        amounts, order = amount.ints(pads), range(x.dim()) if axes is None else along.ints(axes)
        begins, ends = [0] * x.dim(), [0] * x.dim()
        for axis, begin, end in zip(order, amounts[: len(order)], amounts[len(order) :], strict=True):
            begins[axis], ends[axis] = begin, end
        fill = constant.floats(value if value is None or value.numel() else None)[0]
        return pad(x, begins, ends, mode, fill)

    return run


def _center_crop_pad(node: ir.Node) -> Kernel:
    axes = integers(node, "axes")
    numbers = Numbers()

    def run(x: Tensor, shape: Tensor) -> Tensor:
        begins, ends = [0] * x.dim(), [0] * x.dim()
        for axis, want in zip(axes or range(x.dim()), numbers.ints(shape), strict=True):
            missing = want - x.shape[axis]
            # the odd one is cut or added at the end
            begins[axis] = missing // 2 if missing > 0 else -(-missing // 2)
            ends[axis] = missing - begins[axis]
        return pad(x, begins, ends, "constant", 0.0)

    return run


ROWS: tuple[Row, ...] = (
    ("Pad", (2, 11, 13, 18, 19, 21, 23, 24, 25), _pad, (1, 2, 3)),
    ("CenterCropPad", (18,), _center_crop_pad, (1,)),
)
