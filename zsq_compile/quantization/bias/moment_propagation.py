"""Channel means and variances of a float graph in closed form, from its BatchNormalization statistics.

Behind a BatchNormalization every channel is close to a normal variable with mean = shift and deviation = |scale|
(DFQ, Nagel et al. 2019, section 4.2.1). From there the moments are carried through the operators that follow:

    Relu, Clip          moments of the clipped normal (formulas below)
    Add                 means add; variances add, as if the operands were independent
    Concat, Pad, Slice  channels are concatenated, padded with a constant, or cut out
    reshaping, nearest  means and variances stay
    averaging           means stay; variances fall by what neighbours have in common, which nothing here knows, so that
                        what needs them behind it (Relu, Clip) is unknown
    Conv, Gemm          mean = W E[x] + b, variance = W^2 Var[x], as if inputs were independent

With a = (low - m) / s, c = (high - m) / s, phi and Phi the standard normal density and distribution, x ~ N(m, s^2):
    E[clip x]   = low Phi(a) + m (Phi(c) - Phi(a)) + s (phi(a) - phi(c)) + high (1 - Phi(c))
    E[clip x^2] = low^2 Phi(a) + (m^2 + s^2)(Phi(c) - Phi(a)) + 2 m s (phi(a) - phi(c))
                  + s^2 (a phi(a) - c phi(c)) + high^2 (1 - Phi(c))
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from passes.batchnorm.behind_batchnorm import moments_behind
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics

_SQRT2 = math.sqrt(2.0)
_SQRT2PI = math.sqrt(2.0 * math.pi)
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ValueMoments:
    """Mean and variance of each channel of a value, float64, (channels,) each; None where only means are known."""

    mean: Tensor
    variance: Tensor | None


def clipped_normal(moments: ValueMoments, low: float, high: float) -> ValueMoments | None:
    """ValueMoments of clip(x, low, high) for normal x, if its variance is known; either limit may be infinite."""
    if moments.variance is None:
        return None
    mean, deviation = moments.mean, moments.variance.clamp(min=_TINY).sqrt()
    cdf_low, density_low, edge_low = _standard((low - mean) / deviation)
    cdf_high, density_high, edge_high = _standard((high - mean) / deviation)
    inside, bend = cdf_high - cdf_low, density_low - density_high
    below = torch.zeros_like(mean) if math.isinf(low) else low * cdf_low
    above = torch.zeros_like(mean) if math.isinf(high) else high * (1.0 - cdf_high)
    first = below + mean * inside + deviation * bend + above
    second = (mean**2 + deviation**2) * inside + 2.0 * mean * deviation * bend + deviation**2 * (edge_low - edge_high)
    second = second + (0.0 if math.isinf(low) else low) * below + (0.0 if math.isinf(high) else high) * above
    return ValueMoments(mean=first, variance=(second - first**2).clamp(min=0.0))


def _standard(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distribution, density and z * density of the standard normal; the product is 0 at infinity."""
    density = torch.exp(-0.5 * z**2) / _SQRT2PI
    product = torch.where(torch.isinf(z), torch.zeros_like(z), z) * density
    return 0.5 * (1.0 + torch.erf(z / _SQRT2)), density, product


def propagate_moments(
    model: ir.Model, statistics: BatchNormStatistics, initializers: Mapping[str, Tensor]
) -> dict[str, ValueMoments]:
    """ValueMoments of every value for which they are known, by name.

    In the folded ``model`` a folded layer's output carries the name of its BatchNormalization's output; ``statistics``
    were harvested before folding.
    """
    known = {}
    for entry in statistics.usable:
        mean, variance = moments_behind(entry)
        known[entry.output] = ValueMoments(mean=torch.from_numpy(mean), variance=torch.from_numpy(variance))
    found: dict[str, ValueMoments] = {}
    for node in model.graph:
        name = str(node.outputs[0].name)
        moments = known.get(name) or _through(node, found, initializers)
        if moments is not None:
            found[name] = moments
    return found


def _through(
    node: ir.Node, found: Mapping[str, ValueMoments], initializers: Mapping[str, Tensor]
) -> ValueMoments | None:
    inputs = [None if value is None else found.get(str(value.name)) for value in node.inputs]
    first = inputs[0] if inputs else None
    match node.op_type:
        case "Add" if len(inputs) == 2 and first is not None and inputs[1] is not None:
            second = inputs[1]
            if first.mean.shape != second.mean.shape:
                return None
            known = None if first.variance is None or second.variance is None else first.variance + second.variance
            return ValueMoments(mean=first.mean + second.mean, variance=known)
        case "Concat" if node.attributes.get_int("axis", -1) == 1 and all(m is not None for m in inputs):
            parts = [moments for moments in inputs if moments is not None]
            variances = [moments.variance for moments in parts if moments.variance is not None]
            return ValueMoments(
                mean=torch.cat([moments.mean for moments in parts]),
                variance=torch.cat(variances) if len(variances) == len(parts) else None,
            )
        case _ if first is None:
            return None
        case "Relu":
            return clipped_normal(first, 0.0, math.inf)
        case "Clip":
            low, high = (_scalar(node, *one) for one in ((1, initializers, -math.inf), (2, initializers, math.inf)))
            return None if low is None or high is None else clipped_normal(first, low, high)
        case "Identity" | "Dropout":
            return first
        case "GlobalAveragePool" | "AveragePool" | "Resize" | "Upsample":
            return _averaged(node, first)
        case "Flatten" | "Reshape" | "Squeeze" if _keeps_channels(node, first):
            return first
        case "Pad" | "Slice":
            return _moved(node, first, initializers)
        case "Conv" | "Gemm":
            return _weighted(node, first, initializers)
        case _:
            return None


def _averaged(node: ir.Node, moments: ValueMoments) -> ValueMoments | None:
    """Pool or resize: what averages keeps the means alone, if no zeros of a border are averaged in."""
    mode = node.attributes.get_string("mode", "nearest")
    if node.op_type in ("Resize", "Upsample"):
        return moments if mode == "nearest" else ValueMoments(mean=moments.mean, variance=None)
    if node.attributes.get_int("count_include_pad", 0) and any(node.attributes.get_ints("pads", [])):
        return None
    return ValueMoments(mean=moments.mean, variance=None)


def _keeps_channels(node: ir.Node, moments: ValueMoments) -> bool:
    """Whether a reshaped value still has its channels on axis 1: there are as many, each with as many numbers."""
    source, shape = None if node.inputs[0] is None else node.inputs[0].shape, node.outputs[0].shape
    if source is None or shape is None or len(source) < 2 or len(shape) < 2:
        return False
    inner = [size for size in (*source[2:], *shape[2:]) if not isinstance(size, int)]
    return not inner and shape[1] == len(moments.mean) and _product(source[2:]) == _product(shape[2:])


def _product(sizes: Iterable[int | ir.SymbolicDim]) -> int:
    return math.prod(size for size in sizes if isinstance(size, int))


def _moved(node: ir.Node, moments: ValueMoments, initializers: Mapping[str, Tensor]) -> ValueMoments | None:
    """Pad or cut along the channel axis; spatial cuts leave the means alone, spatial padding does not."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    constants = [None if v is None else initializers.get(str(v.name)) for v in node.inputs[1:]]
    if shape is None or not constants or constants[0] is None:
        return None
    rank = len(shape)
    computed = [v is not None and c is None for v, c in zip(node.inputs[1:], constants, strict=True)]
    if any(computed):
        return None
    if node.op_type == "Pad":
        return _padded(node, moments, rank, initializers)
    if len(constants) < 2 or constants[1] is None:
        return None
    starts, ends = constants[0].tolist(), constants[1].tolist()
    axes = constants[2].tolist() if len(constants) > 2 and constants[2] is not None else list(range(len(starts)))
    steps = constants[3].tolist() if len(constants) > 3 and constants[3] is not None else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if axis % rank == 1:
            if step < 0:
                return None
            part, variance = slice(start, end, step), moments.variance
            moments = ValueMoments(mean=moments.mean[part], variance=None if variance is None else variance[part])
    return moments


def _padded(node: ir.Node, moments: ValueMoments, rank: int, initializers: Mapping[str, Tensor]) -> ValueMoments | None:
    mode = node.attributes.get_string("mode", "constant")
    assert node.inputs[1] is not None
    pads = initializers[str(node.inputs[1].name)].tolist()
    if mode != "constant" or len(node.inputs) > 3 or len(pads) != 2 * rank:
        return None
    if any(pads[i] or pads[i + rank] for i in range(rank) if i != 1):
        return None
    fill, amount = _scalar(node, 2, initializers, 0.0), (int(pads[1]), int(pads[1 + rank]))
    if fill is None:
        return None
    variance = None if moments.variance is None else functional.pad(moments.variance, amount)
    return ValueMoments(mean=functional.pad(moments.mean, amount, value=fill), variance=variance)


def _weighted(node: ir.Node, moments: ValueMoments, initializers: Mapping[str, Tensor]) -> ValueMoments | None:
    value = node.inputs[1]
    weight = None if value is None else initializers.get(str(value.name))
    if weight is None or node.attributes.get_int("transA", 0) == 1:
        return None
    weight = weight.double() * node.attributes.get_float("alpha", 1.0)
    if node.op_type == "Gemm":
        weight = weight if node.attributes.get_int("transB", 0) else weight.T
    groups = node.attributes.get_int("group", 1)
    if weight.shape[1] * groups != len(moments.mean):
        return None
    bias = torch.zeros(len(weight), dtype=torch.float64)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        if str(node.inputs[2].name) not in initializers:
            return None
        bias = initializers[str(node.inputs[2].name)].double().reshape(-1) * node.attributes.get_float("beta", 1.0)
    mean = per_channel_sum(weight.flatten(2).sum(2) if weight.ndim > 2 else weight, moments.mean, groups)
    squares, variance = (weight**2).flatten(2).sum(2) if weight.ndim > 2 else weight**2, moments.variance
    spread = None if variance is None else per_channel_sum(squares, variance, groups)
    return ValueMoments(mean=mean + bias, variance=spread)


def per_channel_sum(weight: Tensor, channels: Tensor, groups: int) -> Tensor:
    """Sum over the input channels of a grouped layer: (out, in / groups) weights and (in,) numbers give (out,)."""
    grouped = channels.reshape(groups, 1, -1).expand(groups, len(weight) // groups, -1).reshape(len(weight), -1)
    return (weight * grouped).sum(1)


def _scalar(node: ir.Node, index: int, initializers: Mapping[str, Tensor], default: float) -> float | None:
    """Return the number that an input holds, ``default`` where it is left out; None where it is computed."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not value.name:
        return default
    return float(initializers[value.name]) if value.name in initializers else None
