"""Reductions over axes."""

import math
from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import Builder, Kernel, Numbers, Row, integer, integers

_Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _with_attribute(function: _Reduction) -> Builder:
    def build(node: ir.Node) -> Kernel:
        axes, keep = integers(node, "axes"), bool(integer(node, "keepdims", 1))
        return lambda x: function(x, tuple(range(x.dim())) if axes is None else axes, keep)

    return build


def _with_input(function: _Reduction) -> Builder:
    def build(node: ir.Node) -> Kernel:
        keep = bool(integer(node, "keepdims", 1))
        nothing = bool(integer(node, "noop_with_empty_axes"))
        numbers = Numbers()

        def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
            along = () if axes is None else numbers.ints(axes)
            if not along:
                along = () if nothing else tuple(range(x.dim()))
            return function(x, along, keep)

        return run

    return build


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    # torch takes an empty list of axes for all of them
    return x.sum(axes, keepdim=keep, dtype=x.dtype) if axes else x


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if not axes:
        return x
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return x.to(torch.float64).mean(axes, keepdim=keep).to(x.dtype)


def _max(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.numel() == 0:
        return _nothing(x, axes, keep, largest=True)
    return x.amax(axes, keepdim=keep) if axes else x


def _min(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.numel() == 0:
        return _nothing(x, axes, keep, largest=False)
    return x.amin(axes, keepdim=keep) if axes else x


def _nothing(x: Tensor, axes: tuple[int, ...], keep: bool, *, largest: bool) -> Tensor:
    """Reduce an empty tensor: the neutral element of max or min, which torch refuses to give."""
    if x.dtype == torch.bool:
        neutral: float | bool = not largest
    elif x.is_floating_point():
        neutral = -math.inf if largest else math.inf
    else:
        limits = torch.iinfo(x.dtype)
        neutral = limits.min if largest else limits.max
    return torch.full_like(x.sum(axes, keepdim=keep), neutral, dtype=x.dtype)


def _prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _l1(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _l2(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sqrt(_sum(x * x, axes, keep))


def _sum_square(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


def _log_sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.log(_sum(x, axes, keep))


def _log_sum_exp(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep) if axes else x


ROWS: tuple[Row, ...] = (
    ("ReduceSum", (1, 11), _with_attribute(_sum)),
    ("ReduceSum", (13,), _with_input(_sum), (1,)),
    ("ReduceMean", (1, 11, 13), _with_attribute(_mean)),
    ("ReduceMean", (18,), _with_input(_mean), (1,)),
    ("ReduceMax", (1, 11, 12, 13), _with_attribute(_max)),
    ("ReduceMax", (18, 20), _with_input(_max), (1,)),
    ("ReduceMin", (1, 11, 12, 13), _with_attribute(_min)),
    ("ReduceMin", (18, 20), _with_input(_min), (1,)),
    ("ReduceProd", (1, 11, 13), _with_attribute(_prod)),
    ("ReduceProd", (18,), _with_input(_prod), (1,)),
    ("ReduceL1", (1, 11, 13), _with_attribute(_l1)),
    ("ReduceL1", (18,), _with_input(_l1), (1,)),
    ("ReduceL2", (1, 11, 13), _with_attribute(_l2)),
    ("ReduceL2", (18,), _with_input(_l2), (1,)),
    ("ReduceSumSquare", (1, 11, 13), _with_attribute(_sum_square)),
    ("ReduceSumSquare", (18,), _with_input(_sum_square), (1,)),
    ("ReduceLogSum", (1, 11, 13), _with_attribute(_log_sum)),
    ("ReduceLogSum", (18, 28), _with_input(_log_sum), (1,)),
    ("ReduceLogSumExp", (1, 11, 13), _with_attribute(_log_sum_exp)),
    ("ReduceLogSumExp", (18, 28), _with_input(_log_sum_exp), (1,)),
)
