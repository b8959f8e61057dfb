"""From ranges and weights to scales and zero points."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.target import NumberFormat
from passes.plan import QuantizationPlan, Scale, WeightSite
from zsq_compile.config.compile import WeightScales
from zsq_compile.differentiable.fake_quantize import round_to_codes
from zsq_compile.quantization.calibration.observers import CLIPPING_NORM

_PART_ELEMENTS = 1 << 17
_WORTH_A_LOOK = 1 << 15  # numbers, whose error takes much longer than it does to see that it is of no use
_CANDIDATES = 100
_BIAS_CODES = 2.0**30  # a bias keeps one bit of headroom below int32, for later corrections
_SMALLEST = 1e-12


def scale_from_range(low: float, high: float, number_format: NumberFormat) -> Scale:
    """Per-tensor scale and zero point that cover [low, high] and 0.

    The asymmetric grid never reaches beyond the range by rounding the scale up: a Clip whose limits the range equals
    then falls on its lowest and highest codes, which is what lets a runtime drop the Clip. A range that holds only 0
    gets the scale of [0, 1]: the smallest of all scales would blow up the weights' scales behind it.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = 1.0
    if number_format.symmetric:
        middle = number_format.middle
        step = np.float32(max(max(-low, high) / (number_format.qmax - middle), _SMALLEST))
        return Scale(scale=np.asarray(step), zero_point=np.asarray(middle, np.int32))
    levels = number_format.levels - 1
    step = np.float32(max((high - low) / levels, _SMALLEST))
    ends = np.array([-low, high], np.float32)
    if float(step) * levels > high - low or np.rint(ends / step).sum() < levels:
        step = np.nextafter(step, np.float32(0.0))
    zero_point = number_format.qmin + min(int(np.rint(ends[0] / step)), levels)
    return Scale(scale=np.asarray(step), zero_point=np.asarray(zero_point, np.int32))


def choose_weight_scales(
    plan: QuantizationPlan, initializers: Mapping[str, Tensor], method: WeightScales = "mse"
) -> dict[str, Scale]:
    """Symmetric scale of every output channel of every weight of a plan, (channels,) or () without a channel axis.

    Constants that are stored for operators in float have one for each row, in their shape with a last axis of 1.

    The activation scales of the plan must be known: they and the scales found here give the step of an int32 bias,
    which must not overflow. ``minmax`` maps the largest weight to the end of the grid; ``mse`` takes the fraction of it
    with the least error under the 2.4-norm (BRECQ, Li et al. 2021).
    """
    scales = {
        name: _choose_weight_scale(plan, sites, initializers, method) for name, sites in plan.sites_by_weight().items()
    }
    for site in (one for one in plan.stored if one.tied is None):
        constant = initializers[site.initializer].detach()
        step = choose_steps(constant.double().flatten(0, -2), site.number_format, method)
        step = torch.where(step > _SMALLEST, step, 1.0).reshape(*constant.shape[:-1], 1)
        zero_point = np.zeros(step.shape, np.int32)
        scales[site.initializer] = Scale(scale=step.float().cpu().numpy(), zero_point=zero_point)
    return scales


def _choose_weight_scale(
    plan: QuantizationPlan, sites: Sequence[WeightSite], initializers: Mapping[str, Tensor], method: WeightScales
) -> Scale:
    site = sites[0]
    weight = initializers[site.initializer].detach()
    weight = weight.reshape(1, -1) if site.axis is None else weight.movedim(site.axis, 0).flatten(1)
    step = choose_steps(weight, site.number_format, method)
    dead = step <= _SMALLEST
    if bool(dead.any()):  # any scale would do for zeros, but the bias is measured in it
        alive = step[~dead]
        step = torch.where(dead, alive.median() if len(alive) else step.new_tensor(1.0 / site.number_format.qmax), step)
    groups = {activation.value: activation.group for activation in plan.activations}
    for reader in sites:
        if reader.bias is None or reader.data_input not in groups:
            continue
        data_step = float(plan.activation_scales[groups[reader.data_input]].scale)
        bias = initializers[reader.bias].detach().double().reshape(-1)
        least = bias.abs() / (data_step * _BIAS_CODES)
        step = torch.maximum(step, least.amax() if site.axis is None else least)
    step = step.reshape(()) if site.axis is None else step
    scale: NDArray[np.float32] = step.clamp(min=_SMALLEST).float().cpu().numpy()
    return Scale(scale=scale, zero_point=np.zeros(scale.shape, np.int32))


def choose_steps(weight: Tensor, number_format: NumberFormat, method: WeightScales) -> Tensor:
    """Step of each row of a weight matrix (channels, elements), float64, (channels,)."""
    rows = max(_PART_ELEMENTS // max(weight.shape[1], 1), 1)
    return torch.cat([_choose_steps(part.double(), number_format, method) for part in torch.split(weight, rows)])


def _choose_steps(weight: Tensor, number_format: NumberFormat, method: WeightScales) -> Tensor:
    reach = weight.abs().amax(1)
    if method == "minmax":
        return reach / number_format.qmax
    best_step = reach / number_format.qmax
    best_error = torch.full_like(reach, float("inf"))
    for fraction in torch.linspace(0.2, 1.0, _CANDIDATES, dtype=weight.dtype).flip(0):
        step = (reach * fraction / number_format.qmax).clamp(min=_SMALLEST)
        if weight.numel() > _WORTH_A_LOOK and _is_worse_from_here(reach, step, best_error, number_format):
            break
        codes = round_to_codes(weight, step[:, None], number_format)
        error = ((codes * step[:, None] - weight).abs() ** CLIPPING_NORM).sum(1)
        better = error < best_error
        best_error, best_step = torch.where(better, error, best_error), torch.where(better, step, best_step)
    return torch.where(reach > 0, best_step, torch.zeros_like(reach))


def _is_worse_from_here(reach: Tensor, step: Tensor, best_error: Tensor, number_format: NumberFormat) -> bool:
    """Whether what is cut off the largest number alone is more than the best error: smaller steps cut more still."""
    cut = (reach - step * max(-number_format.qmin, number_format.qmax)).clamp(min=0.0) ** CLIPPING_NORM
    return bool((cut > (1.0 + 1e-6) * best_error).all())
