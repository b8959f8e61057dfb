"""Bring the statistics of a model with BatchNormalization to the same network whose BatchNormalization is folded away.

Names of values are the first thing to go by: FoldBatchNorm leaves the layer's output under the name of the
BatchNormalization's. Exporters do not, and there the order of the graph decides. Either way the layer must have as many
channels, and the lengths of its filters and its bias must be those that folding makes: they are compared, so that no
layer gets what belongs to another.
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
_SMALL = 1e-4  # of a middle channel: what is smaller is compared with that


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoldedNorm:
    """One BatchNormalization, and what the layer before it looks like once it is folded.

    Attributes:
        entry: the BatchNormalization.
        lengths: (C,) Euclidean lengths of the folded filters.
        bias: (C,) the folded bias.

    """

    entry: BatchNorm
    lengths: NDArray[np.float32]
    bias: NDArray[np.float32]


def folded_norms(model: ir.Model, statistics: BatchNormStatistics) -> tuple[FoldedNorm, ...]:
    """Take the entries that can be folded into a layer, in the order of the graph; the model stays as it is."""
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
    """Find the layer of a folded model that each BatchNormalization was folded into.

    Returns:
        A recovery per layer that was found, and a refusal per layer that was not.

    """
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
    return Recovered(
        found=tuple(_recovery(layer, *taken[layer.name]) for layer in layers if layer.name in taken),
        refusals=tuple(
            Refusal(where=layer.name, op_type=layer.node.op_type, reason=_reason(layer, norms))
            for layer in layers
            if layer.name not in taken
        ),
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
        return f"its filters and bias are not those of the BatchNormalization that the file has for {layer.value!r}"
    return f"its filters and bias are those of no BatchNormalization with {channels} channels that is left in the file"


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
