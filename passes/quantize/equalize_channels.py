"""Cross-layer equalization (DFQ, Nagel et al. ICCV 2019, section 4.1 and appendix A).

W2 f(W1 x + b1)  =  (W2 S) f(S^-1 W1 x + S^-1 b1)    for a positive diagonal S, if f scales with its input

With r1 and r2 the largest weights of a channel in W1 and W2, s = sqrt(r1 / r2) makes both sqrt(r1 r2), which gives
every channel the largest share of a per-tensor range that both can have. A layer between two others is in two pairs, so
the pairs are visited again until no scale changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.graph_pass import GraphPass, Outcome
from passes.quantize.absorb_biases import ChannelMoments, absorb_biases
from passes.quantize.layer_pairs import LayerPair, find_pairs
from passes.surgery import drop_unused, input_at, set_constant
from passes.weight_layout import by_channels

Array = NDArray[np.float64]
_STARTS = 2e-3  # a model whose scales would all change by less than 0.2 % is equalized already
_STOPS = 1e-3
_SWEEPS = 1000
_DEAD = 1e-6  # of the largest channel


@dataclass
class Equalized(Outcome):
    """Result of equalizing: ``moments`` are those given to the pass, as they are afterwards."""

    moments: Mapping[str, ChannelMoments] = field(default_factory=dict)


class EqualizeChannels(GraphPass):
    """Equalize the channels between all pairs of layers of a folded float model (see ``layer_pairs``).

    1. A channel whose weights are about 0 in one of the two layers stays as it is.
    2. With the moments of channels, by value name, high biases are absorbed (see ``absorb_biases``), which, unlike
       equalizing, changes the model's outputs a little.
    3. A second run, with the moments that the first one returned, changes nothing.
    4. Layers that share a weight are in no pair; shared biases are copied. Values keep their names.
    """

    def __init__(self, moments: Mapping[str, ChannelMoments] | None = None) -> None:
        super().__init__()
        self._moments = moments or {}

    def call(self, model: ir.Model) -> Equalized:
        """Equalize; refused are the layers that are not the first one of a pair."""
        pairs, refusals = find_pairs(model.graph)
        scales = _balancing_scales(pairs)
        moments = dict(self._moments)
        for pair, scale in zip(pairs, scales, strict=True):
            for name in pair.values:
                if name in moments:
                    moments[name] = moments[name].divided(scale)
        modified = rescale_channels(model.graph, pairs, scales)
        absorbed, declined = absorb_biases(model.graph, pairs, moments)
        return Equalized(model, modified or bool(absorbed), (*refusals, *declined), {**moments, **absorbed})


def _balancing_scales(pairs: Sequence[LayerPair]) -> list[Array]:
    """Divisor of every channel between the layers of each pair, (channels,); all 1 if none would change enough."""
    # taps share their channels' scales, so the largest of them stands for all
    reach = {layer: np.abs(_view(layer)).max(3) for pair in pairs for layer in (pair.first, pair.second)}
    scales = [np.ones(reach[pair.first][..., 0].size) for pair in pairs]
    for sweep in range(_SWEEPS):
        furthest = 0.0
        for pair, scale in zip(pairs, scales, strict=True):
            step = _step(reach[pair.first], reach[pair.second])
            scale *= step
            furthest = max(furthest, float(np.abs(np.log(step)).max()))
        if sweep == 0 and furthest < _STARTS:
            return [np.ones_like(scale) for scale in scales]
        if furthest < _STOPS:
            break
    return scales


def _step(first: Array, second: Array) -> Array:
    """Balance two layers given as (groups, outputs, inputs) in place; return the divisors of the channels between."""
    ranges = first.max(2).reshape(-1), second.max(1).reshape(-1)
    alive = np.logical_and.reduce([reach > _DEAD * reach.max() for reach in ranges])
    step: Array = np.sqrt(np.where(alive, ranges[0], 1.0) / np.where(alive, ranges[1], 1.0))
    first /= step.reshape(len(first), -1, 1)
    second *= step.reshape(len(second), 1, -1)
    return step


def rescale_channels(graph: ir.Graph, pairs: Sequence[LayerPair], scales: Sequence[Array]) -> bool:
    """Divide the outputs of first layers and multiply the inputs of second ones; return whether anything changed.

    ``scales`` are the divisors of the channels between the layers of each pair, (channels,) each.
    """
    moved = [(pair, scale) for pair, scale in zip(pairs, scales, strict=True) if (scale != 1.0).any()]
    weights = {layer: _float64(layer, 1) for pair, _ in moved for layer in (pair.first, pair.second)}
    for pair, scale in moved:
        first, second = by_channels(pair.first, weights[pair.first]), by_channels(pair.second, weights[pair.second])
        first /= scale.reshape(len(first), -1, 1, 1)
        second *= scale.reshape(len(second), 1, -1, 1)
        if input_at(pair.first, 2) is not None:
            _replace(graph, pair.first, 2, _float64(pair.first, 2) / scale, "bias")
    for layer, weight in weights.items():
        _replace(graph, layer, 1, weight, "weight")
    return bool(moved)


def _view(layer: ir.Node) -> Array:
    return by_channels(layer, _float64(layer, 1))


def _float64(layer: ir.Node, position: int) -> Array:
    array = constant_value(layer.inputs[position])
    assert array is not None
    return np.ascontiguousarray(array, dtype=np.float64)


def _replace(graph: ir.Graph, layer: ir.Node, position: int, array: Array, kind: str) -> None:
    former = layer.inputs[position]
    set_constant(graph, layer, position, array.astype(np.float32), kind)
    drop_unused(graph, [former])
