"""Assign the statistics of a model with BatchNormalization to the layers of the same network with it folded.

Layers are found by the name of their output, which FoldBatchNorm keeps, or else by their order in the graph. Either way
the norms of their filters and their bias must be those that folding makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.harvest_batchnorm import BatchNorm, BatchNormStatistics
from passes.batchnorm.recovered import Recovered, Recovery
from passes.batchnorm.weighted_layers import WeightedLayer, folded_layers
from passes.plan import Refusal

Array = NDArray[np.float64]

_TOLERANCE = 1e-3  # relative, root of the mean square over channels
_SMALL = 1e-4  # of the median channel: errors of smaller ones are taken relative to that


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoldedNorm:
    """One BatchNormalization, and the (C,) Euclidean norms of the filters and bias of its layer once it is folded."""

    entry: BatchNorm
    lengths: NDArray[np.float32]
    bias: NDArray[np.float32]


def folded_norms(model: ir.Model, statistics: BatchNormStatistics) -> tuple[FoldedNorm, ...]:
    """Return the entries that can be folded into a layer, in graph order; the model is not changed."""
    copy = model.clone()
    FoldBatchNorm().call(copy)
    layers = {layer.value: layer for layer in folded_layers(copy)}
    return tuple(
        FoldedNorm(
            entry=entry,
            lengths=_lengths(layers[entry.output]).astype(np.float32),
            bias=layers[entry.output].bias.astype(np.float32),
        )
        for entry in statistics.entries
        if entry.output in layers and entry.layer is not None
    )


def place_statistics(model: ir.Model, norms: Sequence[FoldedNorm]) -> Recovered:
    """Find the layer of a folded model that each BatchNormalization was folded into; refuse all other layers."""
    layers = folded_layers(model)
    taken: dict[str, tuple[FoldedNorm, str]] = {}
    left = list(norms)
    for by_name in (True, False):
        for layer in layers:
            fitting = (norm for norm in left if not by_name or norm.entry.output == layer.value)
            found = next((norm for norm in fitting if _agree(layer, norm)), None)
            if found is not None and layer.name not in taken:
                left.remove(found)
                how = "its name" if by_name else f"order and {len(layer.bias)} channels"
                taken[layer.name] = (found, f"{how}, {found.entry.output!r}; its folded filters and bias agree")
    missing = (layer for layer in layers if layer.name not in taken)
    return Recovered(
        found=tuple(_recovery(layer, *taken[layer.name]) for layer in layers if layer.name in taken),
        refusals=tuple(Refusal.of(layer.node, _reason(layer, norms)) for layer in missing),
    )


def _recovery(layer: WeightedLayer, norm: FoldedNorm, how: str) -> Recovery:
    former = replace(norm.entry, node=layer.name, input="", output=layer.value, layer=layer.name)
    return Recovery(layer=layer.node, former=former, how=how)


def _reason(layer: WeightedLayer, norms: Sequence[FoldedNorm]) -> str:
    channels = len(layer.bias)
    alike = [norm for norm in norms if len(norm.bias) == channels]
    if not alike:
        return f"no BatchNormalization of the file has {channels} channels"
    named = next((norm for norm in alike if norm.entry.output == layer.value), None)
    if named is not None:
        return f"its filters and bias do not agree with the BatchNormalization that the file has for {layer.value!r}"
    return f"its filters and bias agree with no BatchNormalization of {channels} channels that is left in the file"


def _lengths(layer: WeightedLayer) -> Array:
    lengths: Array = np.linalg.norm(layer.filters, axis=1)
    return lengths


def _agree(layer: WeightedLayer, norm: FoldedNorm) -> bool:
    if len(layer.bias) != len(norm.bias):
        return False
    pairs = ((_lengths(layer), norm.lengths.astype(np.float64)), (layer.bias, norm.bias.astype(np.float64)))
    return all(_error(one, other) <= _TOLERANCE for one, other in pairs)


def _error(one: Array, other: Array) -> float:
    size = np.maximum(np.abs(one), np.abs(other))
    relative = (one - other) / np.maximum(np.maximum(size, _SMALL * np.median(size)), 1e-30)
    return float(np.sqrt((relative**2).mean()))
