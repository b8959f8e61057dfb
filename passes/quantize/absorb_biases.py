"""Absorb high biases in front of a Relu into the bias behind it.

W2 relu(y) + b2  =  W2 relu(y - c) + (b2 + W2 c)    wherever  y >= c >= 0

A channel whose mean is more than 3 deviations above 0 is hardly ever clipped by the Relu, yet its mean takes up part of
the range in which all channels are quantized. With c = max(0, mean - 3 deviation), less than 0.14 % of a normal channel
lies below c (DFQ, Nagel et al. ICCV 2019, section 4.1.3), and comes out too high, by at most c.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.plan import Refusal
from passes.quantize.layer_pairs import LayerPair
from passes.surgery import input_at, is_standard, set_constant
from passes.weight_layout import by_channels

Array = NDArray[np.float64]
_DEVIATIONS = 3.0
_NOTHING = 1e-6  # of the mean


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChannelMoments:
    """Mean and standard deviation of each channel of a value, float64, (channels,) each."""

    mean: Array
    deviation: Array

    def divided(self, scale: Array) -> "ChannelMoments":
        """Return the moments of the value divided by positive numbers, (channels,)."""
        return ChannelMoments(mean=self.mean / scale, deviation=self.deviation / scale)


def absorb_biases(
    graph: ir.Graph, pairs: Sequence[LayerPair], moments: Mapping[str, ChannelMoments]
) -> tuple[dict[str, ChannelMoments], tuple[Refusal, ...]]:
    """Lower the biases of first layers and raise those of second ones, in place.

    Refused are pairs without a Relu between them; with zero padding, which would have to become padding with -c,
    channel by channel; and ConvTranspose, whose output positions do not all read the same taps.

    Args:
        graph: the graph of the pairs.
        pairs: see ``find_pairs``.
        moments: of the outputs of first layers, by name; a layer without them is left alone.

    Returns:
        New moments of the values that moved, and a refusal for each pair that had a high bias, but cannot absorb it.

    """
    moved: dict[str, ChannelMoments] = {}
    refusals = []
    for pair in pairs:
        known = moments.get(pair.values[0])
        if known is None:
            continue
        excess = known.mean - _DEVIATIONS * known.deviation
        excess = np.where(excess > _NOTHING * np.abs(known.mean), excess, 0.0)
        if not excess.any():
            continue
        reason = _obstacle(pair)
        if reason is not None:
            refusals.append(Refusal.of(pair.first, reason))
            continue
        _absorb(graph, pair, excess)
        for name in pair.values:
            if name in moments:
                moved[name] = ChannelMoments(mean=moments[name].mean - excess, deviation=moments[name].deviation)
    return moved, tuple(refusals)


def _obstacle(pair: LayerPair) -> str | None:
    if pair.activation is None or not is_standard(pair.activation, "Relu"):
        return f"its high bias stays: no Relu stands between it and '{pair.second.name}'"
    for layer in (pair.first, pair.second):
        if constant_value(input_at(layer, 2)) is None:
            return f"its high bias stays: '{layer.name}' has no constant bias"
        if any(layer.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
            return f"its high bias stays: the alpha or beta of '{layer.name}' is not 1"
    if is_standard(pair.second, "ConvTranspose"):
        return f"its high bias stays: not every output of '{pair.second.name}' reads every tap"
    padding = pair.second.attributes.get_string("auto_pad", "NOTSET")
    if any(pair.second.attributes.get_ints("pads", [])) or padding not in ("NOTSET", "VALID"):
        return f"its high bias stays: '{pair.second.name}' pads with zeros, which would have to move with it"
    return None


def _absorb(graph: ir.Graph, pair: LayerPair, excess: Array) -> None:
    arrays = [constant_value(pair.first.inputs[2]), constant_value(pair.second.inputs[2])]
    weight = constant_value(pair.second.inputs[1])
    assert arrays[0] is not None and arrays[1] is not None and weight is not None
    taken_up = by_channels(pair.second, np.ascontiguousarray(weight, dtype=np.float64)).sum(3)
    shift = np.einsum("goi,gi->go", taken_up, excess.reshape(len(taken_up), -1)).reshape(-1)
    set_constant(graph, pair.first, 2, (arrays[0].astype(np.float64) - excess).astype(np.float32), "bias")
    set_constant(graph, pair.second, 2, (arrays[1].astype(np.float64) + shift).astype(np.float32), "bias")
