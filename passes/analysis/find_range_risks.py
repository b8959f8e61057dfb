"""Find risks that follow from the ranges of values: biases that overflow int32, conflicting shared scales.

bias code   = bias[c] / (scale(data) * scale(weight[c])),   an int32
one scale   for a whole group of values   ->   the widest range decides, and the narrowest has few codes left
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import log2

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from backends.target import NumberFormat
from passes.plan import QuantizationPlan, WeightSite
from passes.weight_layout import by_channels

Ranges = Mapping[str, tuple[float, float]]
"""Lowest and highest number of a value, by its name."""

_LARGE = 2.0**30  # half of int32's range; from here on the weight scales have to grow so that the bias fits
_DEAD = 1e-3  # of the median filter, as with dead channels: nothing is lost where their weights round to 0
_BITS_LOST = 2.0  # of 8


@dataclass(frozen=True, kw_only=True, slots=True)
class BiasRisk:
    """A layer with biases whose codes, ``largest`` at most, overflow int32 at the scales of its data and weights."""

    node: str
    channels: tuple[int, ...]
    largest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleConflict:
    """Values that share one scale and differ in range, so that the narrowest never uses some bits of its codes."""

    widest: str
    narrowest: str
    members: int
    bits_lost: float


def find_bias_risks(model: ir.Model, plan: QuantizationPlan, ranges: Ranges) -> tuple[BiasRisk, ...]:
    """Find large bias codes of a folded float model, at scales from ranges of the data and the largest weights.

    The plan needs no scales; layers whose data have no range are left out.
    """
    formats = {site.value: site.number_format for site in plan.activations}
    found = []
    for site in plan.weights:
        if site.bias is None or site.data_input not in ranges or site.data_input not in formats:
            continue
        scale = _scale(*ranges[site.data_input], formats[site.data_input])
        codes = _bias_codes(model, site, scale)
        large = np.flatnonzero(codes >= _LARGE)
        if len(large):
            channels = tuple(int(channel) for channel in large)
            found.append(BiasRisk(node=site.node, channels=channels, largest=float(codes.max())))
    return tuple(found)


def find_scale_conflicts(plan: QuantizationPlan, ranges: Ranges) -> tuple[ScaleConflict, ...]:
    """Find groups whose narrowest value loses 2 bits or more; values without a range, or always 0, are left out."""
    groups: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for site in plan.activations:
        low, high = ranges.get(site.value, (0.0, 0.0))
        if high > low:
            groups[site.group].append((max(high, 0.0) - min(low, 0.0), site.value))
    found = []
    for members in groups.values():
        widest, narrowest = max(members), min(members)
        lost = log2(widest[0] / narrowest[0])
        if lost >= _BITS_LOST:
            found.append(ScaleConflict(widest=widest[1], narrowest=narrowest[1], members=len(members), bits_lost=lost))
    return tuple(found)


def _scale(low: float, high: float, number_format: NumberFormat) -> float:
    """Scale of an activation with a range; 0 is always in it."""
    low, high = min(low, 0.0), max(high, 0.0)
    if number_format.symmetric:
        low, high = -max(-low, high), max(-low, high)
    return max((high - low) / (number_format.levels - 1), float(np.finfo(np.float32).tiny))


def _bias_codes(model: ir.Model, site: WeightSite, data_scale: float) -> NDArray[np.float64]:
    """(channels,) magnitudes of the codes, 0 for channels that are dead."""
    node = next(node for node in model.graph if node.name == site.node)
    weight, bias = (node.inputs[position].const_value.numpy() for position in (1, 2))  # type: ignore[union-attr]
    reach = np.abs(by_channels(node, weight)).max((2, 3)).reshape(-1).astype(np.float64)
    present = reach[reach > 0.0]
    alive = reach > (_DEAD * float(np.median(present)) if len(present) else np.inf)
    if site.axis is None:
        reach = np.full_like(reach, reach.max())
    scales = data_scale * np.maximum(reach / site.number_format.qmax, np.finfo(np.float32).tiny)
    codes: NDArray[np.float64] = np.where(alive, np.abs(bias.reshape(-1).astype(np.float64)) / scales, 0.0)
    return codes
