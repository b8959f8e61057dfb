"""QuantizeLinear -> [Clip of the codes] -> DequantizeLinear as one operation: the same in half the passes over memory.

The gradients are those of learned step size quantization (Esser et al., ICLR 2020, equation 3), like those of the
operators one by one (see ``ops.quant``).
"""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from backends.target import NumberFormat
from passes.surgery import only_use, producer
from zsq_compile.differentiable.arguments import Kernel, Numbers
from zsq_compile.differentiable.ops.quant import RANGES, quantized_type


def round_to_codes(values: Tensor, scale: Tensor | float, number_format: NumberFormat, zero_point: int = 0) -> Tensor:
    """Return the nearest codes, as floats; ``scale`` is broadcastable to the values."""
    codes = torch.round(values / scale)
    codes = codes + zero_point if zero_point else codes
    return torch.clamp(codes, number_format.qmin, number_format.qmax)


class _FakeQuantize(torch.autograd.Function):
    """``scale`` and ``zero_point`` have one element; the result has the type and the memory order of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: float, low: float, high: float) -> Tensor:
        step = scale.detach().reshape(()).to(x.dtype)
        ctx.limits = low - zero_point, high - zero_point
        real = torch.div(x.detach(), step).round_().clamp_(*ctx.limits).mul_(step)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, real, scale)
        return real

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, real, scale = ctx.saved_tensors
        step = float(scale)
        # what of the gradient comes from inside the grid; this kernel is ten times as fast as a mask of booleans
        low, high = ((limit + side) * step for limit, side in zip(ctx.limits, (-0.5, 0.5), strict=True))
        passed = torch.ops.aten.hardtanh_backward(gradients[0], x, low, high)
        to_scale = None
        if ctx.needs_input_grad[1]:  # round(x / s) - x / s inside, the code outside
            total = (gradients[0] * real).sum(dtype=torch.float32) - (passed * x).sum(dtype=torch.float32)
            to_scale = (total / step).to(scale.dtype).reshape(scale.shape)
        return passed if ctx.needs_input_grad[0] else None, to_scale, None, None, None


def fuse(quantize: ir.Node, kernels: Sequence[Kernel]) -> Kernel:
    """Kernel of (x, scale, zero_point, [lowest code, highest code]) -> real values, per tensor.

    Under autocast a half-precision ``x`` is quantized in its own precision, so that a network running in bfloat16 stays
    in it; else in float32 at least, like the operators themselves.

    Args:
        quantize: the QuantizeLinear.
        kernels: of the operators, which run where a zero point or a limit of the codes is to get a gradient.

    """
    low, high = map(float, RANGES[quantized_type(quantize)])
    readers = [Numbers() for _ in range(3 if len(kernels) == 3 else 1)]

    def run(x: Tensor, scale: Tensor, *codes: Tensor) -> Tensor:
        if any(code.requires_grad for code in codes):
            return _one_by_one(kernels, x, scale, *codes)
        zero_point, *limits = (reader.floats(code)[0] for reader, code in zip(readers, codes, strict=True))
        lowest, highest = (max(low, limits[0]), min(high, limits[1])) if limits else (low, high)
        autocast = torch.is_autocast_enabled(x.device.type)
        if x.dtype != torch.float32 and not autocast:
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        real: Tensor = _FakeQuantize.apply(x, scale, zero_point, lowest, highest)  # type: ignore[no-untyped-call]
        return real.to(scale.dtype) if scale.dtype in (torch.float16, torch.bfloat16) and not autocast else real

    return run


def _one_by_one(kernels: Sequence[Kernel], x: Tensor, scale: Tensor, zero_point: Tensor, *limits: Tensor) -> Tensor:
    quantize, *clip, dequantize = kernels
    codes = quantize(x, scale, zero_point)
    for kernel in clip:
        codes = kernel(codes, *limits)
    real = dequantize(codes, scale, zero_point)
    assert isinstance(real, Tensor)
    return real


def find_chains(nodes: Sequence[ir.Node]) -> dict[int, tuple[int, ...]]:
    """Find runs of QuantizeLinear -> [Clip] -> DequantizeLinear with one scale and zero point.

    Returns:
        Indices of the nodes in front of each DequantizeLinear, by its index; nothing else reads their outputs.

    """
    index = {node: place for place, node in enumerate(nodes)}
    found = {}
    for place, node in enumerate(nodes):
        before = producer(node, 0) if node.op_type == "DequantizeLinear" else None
        clip = before if before is not None and before.op_type == "Clip" else None
        quantize = before if clip is None else producer(clip, 0)
        if quantize is None or quantize.op_type != "QuantizeLinear" or not _same_grid(quantize, node):
            continue
        inner = [member for member in (quantize, clip) if member is not None]
        alone = all(only_use(member.outputs[0]) is not None for member in inner)
        limited = clip is None or (len(clip.inputs) == 3 and all(map(_is_single, clip.inputs[1:])))
        if alone and limited and all(member in index for member in inner):
            found[place] = tuple(index[member] for member in inner)
    return found


def _same_grid(quantize: ir.Node, dequantize: ir.Node) -> bool:
    return (
        len(quantize.inputs) == 3
        and tuple(quantize.inputs[1:]) == tuple(dequantize.inputs[1:])
        and all(map(_is_single, quantize.inputs[1:]))
        and "output_dtype" not in dequantize.attributes
    )


def _is_single(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.const_value.size == 1
