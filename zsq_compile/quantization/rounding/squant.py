"""Data-free rounding: the errors of a kernel, and those of a channel, are made to cancel.

SQuant (Guo et al., ICLR 2022, algorithm 1). With e the rounding errors in units of the step, a layer's output error
under inputs of which only the mean is known is small where the sums of e are small: over each kernel first, then over
all kernels of an output channel. Flipping one rounding to its other neighbour changes a sum by exactly 1. So a kernel
whose errors sum to s needs ceil(|s| - 1/2) flips, and those with the largest errors of the sign of s cost the least:
no other choice of neighbours with such a sum has a smaller sum of e^2. A channel then flips once more in those of its
kernels whose sums are largest. Inside a kernel this takes back the last flip where there was one too many, and makes
the next one where there was not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from backends.target import NumberFormat
from passes.plan import QuantizationPlan
from zsq_compile.differentiable.fake_quantize import round_to_codes


def round_with_squant(plan: QuantizationPlan, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round every weight of a plan on the grid that its scale gives; no data is looked at.

    A row of a Gemm or MatMul is one kernel. Where the channels lie along no axis, every kernel is a channel of its own.
    Returns weights on their grids, float32, in their shapes, by initializer name.
    """
    rounded = {}
    for name, (site, *_) in plan.sites_by_weight().items():
        weight = weights[name].detach()
        by_channel = weight.flatten(0, 1) if site.axis is None else weight.movedim(site.axis, 0)
        one_kernel = site.axis is None or weight.ndim == 2
        rows = by_channel.double().reshape(len(by_channel), 1 if one_kernel else by_channel.shape[1], -1)
        scale = torch.from_numpy(plan.weight_scales[name].scale).to(weight.device).expand(len(rows))
        codes = squant_codes(rows, scale.double(), site.number_format)
        on_grid = (codes.float() * scale[:, None, None]).reshape(by_channel.shape)
        on_grid = on_grid.reshape(weight.shape) if site.axis is None else on_grid.movedim(0, site.axis)
        rounded[name] = on_grid.contiguous()
    return rounded


def squant_codes(weight: Tensor, step: Tensor, number_format: NumberFormat) -> Tensor:
    """Integer codes, float64, (rows, kernels, taps); each is the nearest one or the neighbour on the other side.

    The errors of a kernel sum to at most 1 step, of a row to at most 1/2, both unless weights lie beyond the grid: what
    clipping takes from them is made up for by as many flips as there are. ``weight`` is float64, (rows, kernels, taps),
    ``step`` float64, positive, (rows,); the grid is symmetric.
    """
    wanted = weight / step[:, None, None]
    codes = round_to_codes(wanted, 1.0, number_format)

    kernel = (codes - wanted).sum(2)
    gain = _gain(codes, wanted, kernel.sign()[:, :, None], number_format)
    codes = codes - kernel.sign()[:, :, None] * _largest(gain, _flips(kernel))

    kernel = (codes - wanted).sum(2)
    row = kernel.sum(1)
    gain = _gain(codes, wanted, row.sign()[:, None, None], number_format)
    offered = torch.where(gain.amax(2) > 0, kernel * row.sign()[:, None], 0.0)
    chosen = _largest(offered, _flips(row))[:, :, None] & _largest(gain, torch.ones_like(kernel))
    return codes - row.sign()[:, None, None] * chosen


def _flips(total: Tensor) -> Tensor:
    """Flips that bring a sum of errors to at most 1/2."""
    return torch.ceil(total.abs() - 0.5)


def _gain(codes: Tensor, wanted: Tensor, sign: Tensor, number_format: NumberFormat) -> Tensor:
    """Error of this sign that a flip turns around; not positive where there is none, or no code on the other side."""
    flipped = codes - sign
    inside = (flipped >= number_format.qmin) & (flipped <= number_format.qmax)
    return torch.where(inside, (codes - wanted) * sign, 0.0)


def _largest(values: Tensor, count: Tensor) -> Tensor:
    """Mark the ``count`` largest values along the last axis, positive ones only; of equals, the first."""
    rank: Tensor = values.argsort(stable=True, dim=-1, descending=True).argsort(-1)
    return (rank < count[..., None]) & (values > 0)
