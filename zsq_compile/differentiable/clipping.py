"""Clip with a gradient that takes one pass over memory; that of ``torch.clamp`` takes five, for masks of booleans."""

import math
from typing import Any

import torch
from torch import Tensor


def clip(x: Tensor, low: float, high: float) -> Tensor:
    """Clip floating-point ``x`` to [low, high], which may be infinite, as ``torch.clamp``; limits pass the gradient."""
    clipped: Tensor = _Clip.apply(x, low, high)  # type: ignore[no-untyped-call]
    return clipped


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.limits = low, high
        ctx.save_for_backward(x)
        return torch.clamp(x, low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.limits
        # the kernel stops the gradient on the limits, so it gets those next to them
        outside = _next(low, -math.inf, x.dtype), _next(high, math.inf, x.dtype)
        return torch.ops.aten.hardtanh_backward(gradient, x, *outside), None, None


def _next(number: float, towards: float, kind: torch.dtype) -> float:
    """Return the neighbour of a number among those of a type; of 0 the first normal one: subnormal ones are slow."""
    if number == 0.0:
        return math.copysign(torch.finfo(kind).tiny, towards)
    return torch.nextafter(torch.tensor(number, dtype=kind), torch.tensor(towards, dtype=kind)).item()
