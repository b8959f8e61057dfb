"""Layers with weights and normalisations: convolutions, products of matrices, softmax."""

from collections.abc import Callable
from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from passes.windows import split_padding
from zsq_compile.differentiable.arguments import Input, Kernel, Row, integer, integers, number, refuse, same, text
from zsq_compile.differentiable.windows import split_pads, window_padding

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}

# oneDNN 3.12 on AVX2 without AVX-512 writes beyond its memory for gradients of strided 1x1 weights, channels last
_MUST_STEP_BEFORE = torch.backends.cpu.get_cpu_capability() == "AVX2"


def _conv(node: ir.Node) -> Kernel:
    group = integer(node, "group", 1)
    padding = window_padding(node)
    strides, dilations = integers(node, "strides"), integers(node, "dilations")

    def run(x: Tensor, weight: Tensor, bias: Input = None) -> Tensor:
        spatial = x.dim() - 2
        stride = strides or (1,) * spatial
        dilation = dilations or (1,) * spatial
        begins, ends = padding(x.shape[2:], weight.shape[2:], stride, dilation)
        if begins != ends:
            x, begins = functional.pad(x, split_pads(begins, ends)), (0,) * spatial
        if _MUST_STEP_BEFORE and weight.requires_grad and set(weight.shape[2:]) == {1} and not any(begins):
            steps = tuple(slice(None, None, step) for step in stride)
            x, stride = x[(slice(None), slice(None), *steps)], (1,) * spatial
        return _CONVOLUTIONS[spatial](x, weight, bias, stride, begins, dilation, group)

    return run


def _conv_transpose(node: ir.Node) -> Kernel:
    group = integer(node, "group", 1)
    auto, pads = text(node, "auto_pad", "NOTSET"), integers(node, "pads")
    strides, dilations = integers(node, "strides"), integers(node, "dilations")
    extra, wanted = integers(node, "output_padding"), integers(node, "output_shape")

    def run(x: Tensor, weight: Tensor, bias: Input = None) -> Tensor:
        spatial = x.dim() - 2
        stride, dilation = strides or (1,) * spatial, dilations or (1,) * spatial
        output_padding = extra or (0,) * spatial
        axes = zip(x.shape[2:], stride, weight.shape[2:], dilation, output_padding, strict=True)
        full = [(size - 1) * step + (kernel - 1) * gap + 1 + more for size, step, kernel, gap, more in axes]
        if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
            target = wanted[-spatial:] if wanted else [n * step for n, step in zip(x.shape[2:], stride, strict=True)]
            totals = [have - want for have, want in zip(full, target, strict=True)]
            begins, ends = split_padding(totals, upper=auto == "SAME_UPPER")
        else:
            begins, ends = (pads[:spatial], pads[spatial:]) if pads else ((0,) * spatial, (0,) * spatial)
        allowed = all(m < max(s, d) for m, s, d in zip(output_padding, stride, dilation, strict=True))
        if begins == ends and min(begins) >= 0 and allowed:
            return _TRANSPOSED[spatial](x, weight, bias, stride, begins, output_padding, group, dilation)
        # uneven pads: compute everything and crop; output_padding then only lengthens the end
        y = _TRANSPOSED[spatial](x, weight, None, stride, 0, 0, group, dilation)
        after = [more - amount for more, amount in zip(output_padding, ends, strict=True)]
        y = functional.pad(y, split_pads([-amount for amount in begins], after))
        return y if bias is None else y + bias.reshape(-1, *(1,) * spatial)

    return run


def _gemm(node: ir.Node) -> Kernel:
    alpha, beta = number(node, "alpha", 1.0), number(node, "beta", 1.0)
    flip_a, flip_b = integer(node, "transA"), integer(node, "transB")

    def run(a: Tensor, b: Tensor, c: Input = None) -> Tensor:
        if flip_a:
            a = a.t()
        if alpha == beta == 1.0 and flip_b and (c is None or c.dim() == 1):
            return functional.linear(a, b, c)
        if flip_b:
            b = b.t()
        product = a @ b
        if alpha != 1.0:
            product = alpha * product
        if c is None:
            return product
        return product + (c if beta == 1.0 else beta * c)

    return run


def _batch_normalization(node: ir.Node) -> Kernel:
    epsilon = number(node, "epsilon", 1e-5)
    if integer(node, "training_mode") or len(node.outputs) > 1:
        refuse(node, "it is in training mode; export the model in evaluation mode")

    def run(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        if x.dim() < 2 or mean.requires_grad or variance.requires_grad or variance.dtype != scale.dtype:
            # torch's own form gives no gradient to the statistics
            shape = (-1, *(1,) * (x.dim() - 2)) if x.dim() > 1 else (-1,)
            factor = (scale / torch.sqrt(variance + epsilon)).to(scale.dtype).reshape(shape)
            return (x - mean.reshape(shape)).to(x.dtype) * factor + shift.reshape(shape)
        return functional.batch_norm(x, mean, variance, scale, shift, training=False, eps=epsilon)

    return run


def _instance_normalization(node: ir.Node) -> Kernel:
    epsilon = number(node, "epsilon", 1e-5)
    return lambda x, scale, shift: functional.instance_norm(x, weight=scale, bias=shift, eps=epsilon)


def _layer_normalization(node: ir.Node) -> Kernel:
    axis, epsilon = integer(node, "axis", -1), number(node, "epsilon", 1e-5)
    statistics = len(node.outputs) > 1

    def run(x: Tensor, scale: Tensor, shift: Input = None) -> Tensor | tuple[Tensor, ...]:
        shape = x.shape[axis:]
        if not statistics and scale.shape == shape and (shift is None or shift.shape == shape):
            return functional.layer_norm(x, shape, scale, shift, epsilon)
        axes = tuple(range(axis if axis < 0 else axis - x.dim(), 0))
        mean = x.mean(axes, keepdim=True)
        inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon)
        y = (x - mean) * inverse * scale
        return (y if shift is None else y + shift), mean, inverse

    return run


def _group_normalization(node: ir.Node, *, per_group: bool) -> Kernel:
    groups, epsilon = integer(node, "num_groups"), number(node, "epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if per_group:
            scale, shift = (values.repeat_interleave(x.shape[1] // groups) for values in (scale, shift))
        return functional.group_norm(x, groups, scale, shift, epsilon)

    return run


def _rms_normalization(node: ir.Node) -> Kernel:
    axis, epsilon = integer(node, "axis", -1), number(node, "epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor) -> Tensor:
        axes = tuple(range(axis if axis < 0 else axis - x.dim(), 0))
        return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * scale

    return run


def _local_response_normalization(node: ir.Node) -> Kernel:
    size, alpha = integer(node, "size"), number(node, "alpha", 1e-4)
    beta, bias = number(node, "beta", 0.75), number(node, "bias", 1.0)

    def run(x: Tensor) -> Tensor:
        squares = x.square().unsqueeze(1)
        squares = functional.pad(squares, (*(0, 0) * (x.dim() - 2), (size - 1) // 2, size // 2))
        total = squares.unfold(2, size, 1).sum(-1).squeeze(1)
        return x / (bias + alpha / size * total) ** beta

    return run


def _mean_variance_normalization(node: ir.Node) -> Kernel:
    axes = integers(node, "axes") or (0, 2, 3)

    def run(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)

    return run


def _lp_normalization(node: ir.Node) -> Kernel:
    axis, power = integer(node, "axis", -1), integer(node, "p", 2)

    def run(x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, power, axis, keepdim=True)
        return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))

    return run


def _along(function: Callable[[Tensor, int], Tensor]) -> Callable[[ir.Node], Kernel]:
    """Make the builder of a softmax since opset 13: along one axis, the last by default."""

    def build(node: ir.Node) -> Kernel:
        axis = integer(node, "axis", -1)
        return lambda x: function(x, axis)

    return build


def _along_flattened(function: Callable[[Tensor, int], Tensor]) -> Callable[[ir.Node], Kernel]:
    """Make the builder of a softmax before opset 13: over all axes from ``axis`` on."""

    def build(node: ir.Node) -> Kernel:
        axis = integer(node, "axis", 1)

        def run(x: Tensor) -> Tensor:
            if axis in (-1, x.dim() - 1):
                return function(x, -1)
            return function(x.flatten(axis), -1).reshape(x.shape)

        return run

    return build


def _softmax(x: Tensor, axis: int) -> Tensor:
    return torch.softmax(_widened(x), axis)


def _log_softmax(x: Tensor, axis: int) -> Tensor:
    return torch.log_softmax(_widened(x), axis)


def _widened(x: Tensor) -> Tensor:
    """Half precision of autocast in float32: probabilities of bfloat16 sum to 1 within a hundredth only."""
    # outside autocast the model chose the type itself, and what reads the value wants that type
    half = x.dtype in (torch.bfloat16, torch.float16)
    return x.float() if half and torch.is_autocast_enabled(x.device.type) else x


def _hardmax(x: Tensor, axis: int) -> Tensor:
    first = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1.0)


def _einsum(node: ir.Node) -> Kernel:
    equation = text(node, "equation").replace(" ", "")
    return lambda *operands: torch.einsum(equation, *operands)


ROWS: tuple[Row, ...] = (
    ("Conv", (1, 11, 22), _conv),
    ("ConvTranspose", (1, 11, 22), _conv_transpose),
    ("Gemm", (7, 9, 11, 13), _gemm),
    ("MatMul", (1, 9, 13), same(torch.matmul)),
    ("Einsum", (12, 28), _einsum),
    ("BatchNormalization", (7, 9, 14, 15), _batch_normalization),
    ("InstanceNormalization", (6, 22), _instance_normalization),
    ("LayerNormalization", (17,), _layer_normalization),
    ("GroupNormalization", (18,), partial(_group_normalization, per_group=True)),
    ("GroupNormalization", (21,), partial(_group_normalization, per_group=False)),
    ("RMSNormalization", (23,), _rms_normalization),
    ("LRN", (1, 13), _local_response_normalization),
    ("MeanVarianceNormalization", (9, 13), _mean_variance_normalization),
    ("LpNormalization", (1, 22), _lp_normalization),
    ("Softmax", (1, 11), _along_flattened(_softmax)),
    ("Softmax", (13,), _along(_softmax)),
    ("LogSoftmax", (1, 11), _along_flattened(_log_softmax)),
    ("LogSoftmax", (13,), _along(_log_softmax)),
    ("Hardmax", (1, 11), _along_flattened(_hardmax)),
    ("Hardmax", (13,), _along(_hardmax)),
)
