"""Elementwise operators: arithmetic, comparisons, logic and activations."""

import functools
import math
from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from zsq_compile.differentiable.arguments import Builder, Input, Kernel, Numbers, Row, integer, number, same, text
from zsq_compile.differentiable.clipping import clip


def div(a: Tensor, b: Tensor) -> Tensor:
    """Divide; integers round towards zero, as ONNX does."""
    if a.is_floating_point() or b.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def _pow(node: ir.Node) -> Kernel:
    numbers = Numbers()

    def run(base: Tensor, exponent: Tensor) -> Tensor:
        if exponent.numel() == 1 and not exponent.requires_grad and exponent.dim() <= base.dim():
            power = torch.pow(base, numbers.floats(exponent)[0])  # a number reaches torch's square and root shortcuts
        else:
            power = torch.pow(base, exponent)
        return power if base.is_floating_point() else power.to(base.dtype)

    return run


def _mod(node: ir.Node) -> Kernel:
    return torch.fmod if integer(node, "fmod") else torch.remainder


def _clip(node: ir.Node) -> Kernel:
    lowest, highest = Numbers((number(node, "min", -math.inf),)), Numbers((number(node, "max", math.inf),))

    def run(x: Tensor, low: Input = None, high: Input = None) -> Tensor:
        if not x.is_floating_point() or any(limit is not None and limit.requires_grad for limit in (low, high)):
            if low is not None:
                x = torch.maximum(x, low)
            return x if high is None else torch.minimum(x, high)
        return clip(x, lowest.floats(low)[0], highest.floats(high)[0])

    return run


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Builder:
    return same(lambda *operands: functools.reduce(function, operands))


def _mean(*operands: Tensor) -> Tensor:
    return functools.reduce(torch.add, operands) / len(operands)


def _is_inf(node: ir.Node) -> Kernel:
    negative, positive = integer(node, "detect_negative", 1), integer(node, "detect_positive", 1)

    def run(x: Tensor) -> Tensor:
        if negative and positive:
            return torch.isinf(x)
        if positive:
            return torch.isposinf(x)
        return torch.isneginf(x) if negative else torch.zeros_like(x, dtype=torch.bool)

    return run


def _bit_shift(node: ir.Node) -> Kernel:
    return torch.bitwise_left_shift if text(node, "direction") == "LEFT" else torch.bitwise_right_shift


def _gelu(node: ir.Node) -> Kernel:
    approximate = text(node, "approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


def _with_alpha(function: Callable[[Tensor, float], Tensor], default: float = 1.0) -> Builder:
    def build(node: ir.Node) -> Kernel:
        alpha = number(node, "alpha", default)
        return lambda x: function(x, alpha)

    return build


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _selu(node: ir.Node) -> Kernel:
    alpha = number(node, "alpha", 1.67326319217681884765625)
    gamma = number(node, "gamma", 1.05070102214813232421875)
    return lambda x: gamma * functional.elu(x, alpha)


def _hard_sigmoid(node: ir.Node) -> Kernel:
    alpha, beta = number(node, "alpha", 0.2), number(node, "beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)


def _swish(x: Tensor, alpha: float) -> Tensor:
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def _thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def _shrink(node: ir.Node) -> Kernel:
    bias, threshold = number(node, "bias", 0.0), number(node, "lambd", 0.5)

    def run(x: Tensor) -> Tensor:
        below = torch.where(x < -threshold, x + bias, torch.zeros_like(x))
        return torch.where(x > threshold, x - bias, below).to(x.dtype)

    return run


def _dropout(node: ir.Node) -> Kernel:
    training = Numbers((0,))

    def run(x: Tensor, ratio: Input = None, mode: Input = None) -> tuple[Tensor, ...]:
        if training.ints(mode)[0] and (ratio is None or ratio.item() != 0):
            raise ValueError("Dropout is in training mode; export the model in evaluation mode")
        return x, torch.ones_like(x, dtype=torch.bool)

    return run


ROWS: tuple[Row, ...] = (
    # arithmetic
    ("Add", (7, 13, 14), same(torch.add)),
    ("Sub", (7, 13, 14), same(torch.sub)),
    ("Mul", (7, 13, 14), same(torch.mul)),
    ("Div", (7, 13, 14), same(div)),
    ("Pow", (7, 12, 13, 15), _pow),
    ("Mod", (10, 13, 28), _mod),
    ("Neg", (6, 13), same(torch.neg)),
    ("Abs", (6, 13), same(torch.abs)),
    ("Sign", (9, 13), same(torch.sign)),
    ("Reciprocal", (6, 13), same(torch.reciprocal)),
    ("Sqrt", (6, 13), same(torch.sqrt)),
    ("Exp", (6, 13), same(torch.exp)),
    ("Log", (6, 13), same(torch.log)),
    ("Erf", (9, 13), same(torch.erf)),
    ("Floor", (6, 13), same(torch.floor)),
    ("Ceil", (6, 13), same(torch.ceil)),
    ("Round", (11, 22), same(torch.round)),
    ("Sum", (6, 8, 13), _variadic(torch.add)),
    ("Mean", (6, 8, 13), same(_mean)),
    ("Max", (6, 8, 12, 13), _variadic(torch.maximum)),
    ("Min", (6, 8, 12, 13), _variadic(torch.minimum)),
    ("Clip", (6, 11, 12, 13), _clip),
    ("Sin", (7, 22), same(torch.sin)),
    ("Cos", (7, 22), same(torch.cos)),
    ("Tan", (7, 22), same(torch.tan)),
    ("Asin", (7, 22), same(torch.asin)),
    ("Acos", (7, 22), same(torch.acos)),
    ("Atan", (7, 22), same(torch.atan)),
    ("Sinh", (9, 22), same(torch.sinh)),
    ("Cosh", (9, 22), same(torch.cosh)),
    ("Asinh", (9, 22), same(torch.asinh)),
    ("Acosh", (9, 22), same(torch.acosh)),
    ("Atanh", (9, 22), same(torch.atanh)),
    # comparisons, logic, bits
    ("Equal", (7, 11, 13, 19), same(torch.eq)),
    ("Greater", (7, 9, 13), same(torch.gt)),
    ("GreaterOrEqual", (12, 16), same(torch.ge)),
    ("Less", (7, 9, 13), same(torch.lt)),
    ("LessOrEqual", (12, 16), same(torch.le)),
    ("And", (7,), same(torch.logical_and)),
    ("Or", (7,), same(torch.logical_or)),
    ("Xor", (7,), same(torch.logical_xor)),
    ("Not", (1,), same(torch.logical_not)),
    ("Where", (9, 16), same(torch.where)),
    ("IsNaN", (9, 13, 20), same(torch.isnan)),
    ("IsInf", (10, 20), _is_inf),
    ("BitShift", (11, 28), _bit_shift),
    ("BitwiseAnd", (18,), same(torch.bitwise_and)),
    ("BitwiseOr", (18,), same(torch.bitwise_or)),
    ("BitwiseXor", (18,), same(torch.bitwise_xor)),
    ("BitwiseNot", (18,), same(torch.bitwise_not)),
    # activations
    ("Relu", (6, 13, 14), same(torch.relu)),
    ("Sigmoid", (6, 13), same(torch.sigmoid)),
    ("Tanh", (6, 13), same(torch.tanh)),
    ("Gelu", (20,), _gelu),
    ("HardSwish", (14, 22), same(functional.hardswish)),
    ("HardSigmoid", (6, 22), _hard_sigmoid),
    ("Mish", (18, 22), same(functional.mish)),
    ("Swish", (24,), _with_alpha(_swish)),
    ("LeakyRelu", (6, 16), _with_alpha(functional.leaky_relu, 0.01)),
    ("PRelu", (7, 9, 16), same(_prelu)),
    ("Elu", (6, 22), _with_alpha(functional.elu)),
    ("Celu", (12, 28), _with_alpha(functional.celu)),
    ("Selu", (6, 22), _selu),
    ("Softplus", (1, 22), same(functional.softplus)),
    ("Softsign", (1, 22), same(functional.softsign)),
    ("ThresholdedRelu", (10, 22), _with_alpha(_thresholded_relu)),
    ("Shrink", (9,), _shrink),
    ("Dropout", (7, 10, 12, 13, 22), _dropout, (1, 2)),
)
