"""Reductions over axes."""

import math
from collections.abc import Callable
from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import Builder, Input, Kernel, Numbers, Row, integer, integers, same

_Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _reduction(function: _Reduction) -> Builder:
    def build(node: ir.Node) -> Kernel:
        axes, keep = Numbers(integers(node, "axes")), bool(integer(node, "keepdims", 1))
        none_means_all = not integer(node, "noop_with_empty_axes")

        def run(x: Tensor, given: Input = None) -> Tensor:
            along = axes.ints(given) or (tuple(range(x.dim())) if none_means_all else ())
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


def _extreme(x: Tensor, axes: tuple[int, ...], keep: bool, *, largest: bool) -> Tensor:
    if x.numel() == 0:
        return _neutral(x, axes, keep, largest=largest)
    return (x.amax if largest else x.amin)(axes, keepdim=keep) if axes else x


def _neutral(x: Tensor, axes: tuple[int, ...], keep: bool, *, largest: bool) -> Tensor:
    """Reduce an empty tensor to the neutral element of max or min, which torch refuses."""
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


def _log_sum_exp(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep) if axes else x


def _sum_square(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


ROWS: tuple[Row, ...] = (
    ("ReduceSum", (1, 11, 13), _reduction(_sum), (1,)),
    ("ReduceMean", (1, 11, 13, 18), _reduction(_mean), (1,)),
    ("ReduceMax", (1, 11, 12, 13, 18, 20), _reduction(partial(_extreme, largest=True)), (1,)),
    ("ReduceMin", (1, 11, 12, 13, 18, 20), _reduction(partial(_extreme, largest=False)), (1,)),
    ("ReduceProd", (1, 11, 13, 18), _reduction(_prod), (1,)),
    ("ReduceL1", (1, 11, 13, 18), _reduction(lambda x, axes, keep: _sum(x.abs(), axes, keep)), (1,)),
    ("ReduceL2", (1, 11, 13, 18), _reduction(lambda *given: torch.sqrt(_sum_square(*given))), (1,)),
    ("ReduceSumSquare", (1, 11, 13, 18), _reduction(_sum_square), (1,)),
    ("ReduceLogSum", (1, 11, 13, 18, 28), _reduction(lambda *given: torch.log(_sum(*given))), (1,)),
    ("ReduceLogSumExp", (1, 11, 13, 18, 28), _reduction(_log_sum_exp), (1,)),
    ("Det", (11, 22), same(torch.linalg.det)),
)
