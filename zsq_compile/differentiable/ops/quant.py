"""QuantizeLinear and DequantizeLinear with straight-through gradients, and casts between element types.

Codes are float tensors. With y = clamp(round(x / s) + z, low, high) and a straight-through round, the chain
Quantize -> Dequantize has the gradients of learned step size quantization (Esser et al., ICLR 2020): d/dx is 1 inside
and 0 outside, d/ds is round(x/s) - x/s inside and low - z or high - z outside.
"""

import functools
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from passes.quantizer_grid import code_range
from passes.surgery import input_at
from zsq_compile.differentiable.arguments import TORCH_TYPES, Input, Kernel, Row, element_type, integer, refuse, same

RANGES = {kind: code_range(kind) for kind in TORCH_TYPES if kind.is_integer()}


class _Quantize(torch.autograd.Function):
    """One pass over ``x`` for divide, round, shift and clamp; all tensors float and broadcastable to ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int, high: int) -> Tensor:
        codes = torch.div(x, scale).round_()
        if zero_point is not None:
            codes.add_(zero_point)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, scale, (codes >= low) & (codes <= high))
            ctx.zero_point_shape = None if zero_point is None else zero_point.shape
        return codes.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, inside = ctx.saved_tensors
        passed = gradients[0] * inside
        to_x, to_scale, to_zero = ctx.needs_input_grad[:3]
        slope = passed / scale if to_x or to_scale else None
        return (
            slope if to_x else None,
            (-slope * x / scale).sum_to_size(scale.shape) if slope is not None and to_scale else None,
            passed.sum_to_size(ctx.zero_point_shape) if to_zero else None,
            None,
            None,
        )


class _Granularity:
    """Spreads a scale or zero point over a tensor: per tensor, along an axis, or in blocks."""

    def __init__(self, node: ir.Node) -> None:
        self._axis = integer(node, "axis", 1)
        self._block = integer(node, "block_size")

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """Reshape or repeat ``values`` so that it broadcasts to ``like``."""
        if values.numel() == 1:
            return values.reshape(()) if like.dim() == 0 else values.reshape((1,) * like.dim())
        axis = self._axis % like.dim()
        if self._block:
            return values.repeat_interleave(self._block, axis).narrow(axis, 0, like.shape[axis])
        return values.reshape(*(1,) * axis, -1, *(1,) * (like.dim() - 1 - axis))


class _ZeroTest:
    """Tells whether an integer zero point is all zeros; reads each tensor once."""

    def __init__(self) -> None:
        self._tensor: Input = None
        self._zero = False

    def __call__(self, tensor: Tensor) -> bool:
        if tensor is not self._tensor:
            self._zero = not tensor.is_floating_point() and not tensor.to(torch.float32).any().item()
            self._tensor = tensor
        return self._zero


def quantized_type(node: ir.Node) -> ir.DataType:
    """Type of the codes that a QuantizeLinear makes."""
    zero_point = input_at(node, 2)
    if zero_point is None:
        kind: ir.DataType | None = ir.DataType(integer(node, "output_dtype") or ir.DataType.UINT8.value)
    elif zero_point.const_value is not None:
        kind = zero_point.const_value.dtype
    else:
        kind = zero_point.dtype or node.outputs[0].dtype
    if kind is None:
        refuse(node, "the type of its zero point is not known; run shape inference first")
    if kind not in RANGES or kind.bitwidth > 16:
        refuse(node, f"codes of type {kind.name} cannot be quantized to")
    return kind


def _at_least_float32(*tensors: Tensor) -> torch.dtype:
    return functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)


def _quantize(node: ir.Node) -> Kernel:
    low, high = RANGES[quantized_type(node)]
    granularity, is_zero = _Granularity(node), _ZeroTest()

    def run(x: Tensor, scale: Tensor, zero_point: Input = None) -> Tensor:
        # codes up to 65535 do not fit half precision, whatever the neighbours compute in
        kind = _at_least_float32(x, scale)
        x = x.to(kind)
        shift = None if zero_point is None or is_zero(zero_point) else granularity.spread(zero_point.to(kind), x)
        step = granularity.spread(scale.to(kind), x)
        codes: Tensor = _Quantize.apply(x, step, shift, low, high)  # type: ignore[no-untyped-call]
        return codes

    return run


def _dequantize(node: ir.Node) -> Kernel:
    granularity, is_zero = _Granularity(node), _ZeroTest()
    wanted = TORCH_TYPES[element_type(node, "output_dtype")] if integer(node, "output_dtype") else None
    source = node.inputs[0].dtype if node.inputs[0] is not None else None
    if source is not None and source not in RANGES:
        refuse(node, f"codes of type {source.name} cannot be dequantized")

    def run(codes: Tensor, scale: Tensor, zero_point: Input = None) -> Tensor:
        kind = _at_least_float32(codes, scale) if codes.is_floating_point() else _at_least_float32(scale)
        real = codes.to(kind)
        if zero_point is not None and not is_zero(zero_point):
            real = real - granularity.spread(zero_point.to(kind), real)
        real = real * granularity.spread(scale.to(kind), real)
        if wanted is not None:
            return real.to(wanted)
        return real.to(scale.dtype) if scale.dtype in (torch.float16, torch.bfloat16) else real

    return run


def _dynamic_quantize(x: Tensor) -> tuple[Tensor, ...]:
    low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
    scale = (high - low) / 255.0
    zero_point = torch.clamp(torch.round(-low / scale), 0.0, 255.0).detach()
    codes: Tensor = _Quantize.apply(x, scale, zero_point, 0, 255)  # type: ignore[no-untyped-call]
    return codes, scale, zero_point.to(torch.uint8)


def cast(x: Tensor, kind: ir.DataType, source: ir.DataType | None) -> Tensor:
    """Convert ``x``, declared as ``source``, to ``kind``; a float tensor of codes keeps its gradient."""
    target = TORCH_TYPES[kind]
    if kind in RANGES and x.is_floating_point() and source in RANGES and _holds(kind, source):
        return x
    if kind not in RANGES or kind.bitwidth >= 8:
        return x.to(target)
    low, high = RANGES[kind]
    return (torch.remainder(x.to(torch.int32) - low, high - low + 1) + low).to(target)


def _holds(kind: ir.DataType, source: ir.DataType | None) -> bool:
    return source is not None and RANGES[kind][0] <= RANGES[source][0] and RANGES[source][1] <= RANGES[kind][1]


def _declared(node: ir.Node) -> ir.DataType | None:
    return None if node.inputs[0] is None else node.inputs[0].dtype


def _cast(node: ir.Node) -> Kernel:
    kind, source = element_type(node, "to"), _declared(node)
    return lambda x: cast(x, kind, source)


def _cast_like(node: ir.Node) -> Kernel:
    source = _declared(node)
    kind = None if node.inputs[1] is None else node.inputs[1].dtype
    if kind is not None and kind not in TORCH_TYPES:
        refuse(node, f"element type {kind.name} has no tensor type here")
    return lambda x, like: x.to(like.dtype) if kind is None else cast(x, kind, source)


def _bit_cast(node: ir.Node) -> Kernel:
    kind = element_type(node, "to")
    if kind.bitwidth < 8:
        refuse(node, f"bits of type {kind.name} are held one number to a byte here")
    return lambda x: x.view(TORCH_TYPES[kind])


ROWS: tuple[Row, ...] = (
    ("QuantizeLinear", (10, 13, 19, 21, 23, 24, 25, 28), _quantize),
    ("DequantizeLinear", (10, 13, 19, 21, 23, 24, 25, 28), _dequantize),
    ("DynamicQuantizeLinear", (11,), same(_dynamic_quantize)),
    ("Cast", (6, 9, 13, 19, 21, 23, 24, 25, 28), _cast),
    ("BitCast", (26,), _bit_cast),
    ("CastLike", (15, 19, 21, 23, 24, 25), _cast_like),
)
