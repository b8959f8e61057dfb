"""Even out the channels between two layers where one scale for all of them would lose most of what they hold.

W2 f(W1 x + b1)  =  (W2 S) f(S^-1 W1 x + S^-1 b1)    for a positive diagonal S, if f scales with its input

Cross-layer equalization (DFQ, Nagel et al. ICCV 2019) does that for every pair of layers, which changes what was fine.
Here only pairs are touched whose noise it lowers many times over, by a model of the noise: rounding an activation on a
grid as long as its widest channel, and the weights of an output on one as long as its largest weight. The factors are
powers of two, with which the float network computes what it did before, bit by bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.constants import constant_value
from passes.operators import DENSE
from passes.plan import QuantizationPlan, WeightSite
from passes.quantize.equalize_channels import rescale_channels
from passes.quantize.layer_pairs import LayerPair, find_pairs
from passes.weight_layout import by_channels
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress
from zsq_compile.quantization.layer_metrics.noise_causes import by_channel
from zsq_compile.quantization.samples import Batch, Samples

Array = NDArray[np.float64]
_GAIN = 10.0 ** (12.0 / 10.0)  # that the noise must fall by: two bits
_NOISY = 10.0 ** (-30.0 / 10.0)  # noise over signal of a pair below which nothing is amiss
_SHARES = (0.5, 0.75, 1.0)  # of the activations' unevenness that is taken out
_MOST = 24  # binary orders of magnitude
_NAMED = 3
_PART = 1 << 21  # numbers that are in float64 at a time


@dataclass(slots=True)
class _Channels:
    """Range (with 0 inside) and mean square of each channel of a value."""

    low: Array
    high: Array
    squares: Array
    count: int = 0

    @classmethod
    def none(cls, channels: int) -> "_Channels":
        return cls(np.zeros(channels), np.zeros(channels), np.zeros(channels))

    def observe(self, rows: Tensor) -> None:
        """Add a batch, (channels, elements)."""
        self.low = np.minimum(self.low, rows.amin(1).double().numpy())
        self.high = np.maximum(self.high, rows.amax(1).double().numpy())
        parts = torch.split(rows, max(_PART // max(rows.shape[1], 1), 1))
        self.squares += torch.cat([part.double().square().sum(1) for part in parts]).numpy()
        self.count += rows.shape[1]


def even_channels(
    model: ir.Model, statistics: BatchNormStatistics, plan: QuantizationPlan, samples: Samples, progress: Progress
) -> tuple[ir.Model, BatchNormStatistics]:
    """Even out the channels of a folded float model where a plan would lose them.

    Returns:
        The model itself or a copy of it, which ``plan`` fits as well, and the statistics, which hold for it.

    """
    pairs = {pair: site for pair in find_pairs(model.graph)[0] if (site := _quantized(pair, plan)) is not None}
    if not pairs:
        return model, statistics
    teacher = TorchGraph(model)
    suspects = _choose(pairs, plan, _measure(teacher, pairs, samples.take_few(model)))
    if not suspects:
        return model, statistics
    chosen = _choose(
        {pair: pairs[pair] for pair in suspects}, plan, _measure(teacher, suspects, samples.fitting(model))
    )
    if not chosen:
        return model, statistics
    copy = model.clone()
    same = {(pair.first.name, pair.second.name): pair for pair in find_pairs(copy.graph)[0]}
    found = [same[pair.first.name, pair.second.name] for pair in chosen]
    rescale_channels(copy.graph, found, list(chosen.values()))
    factors = {name: factor for pair, factor in chosen.items() for name in pair.values}
    progress.note(_words(list(chosen)))
    return copy, _divided(statistics, factors)


def _quantized(pair: LayerPair, plan: QuantizationPlan) -> WeightSite | None:
    """Weights of the second layer of a pair; None where it does not read codes, or shares a constant with others."""
    if pair.values[-1] not in {site.value for site in plan.activations}:
        return None
    constants = (*pair.first.inputs[1:3], pair.second.inputs[1])
    if any(value is not None and len(value.uses()) > 1 for value in constants):
        return None
    return next((site for site in plan.weights if site.node == pair.second.name), None)


def _measure(
    teacher: TorchGraph, pairs: Mapping[LayerPair, object], batches: Sequence[Batch]
) -> dict[LayerPair, _Channels]:
    names = {pair.values[-1]: pair for pair in pairs}
    found: dict[LayerPair, _Channels] = {}

    def visit(node: ir.Node, made: tuple[Tensor, ...]) -> None:
        pair = names.get(str(node.outputs[0].name))
        if pair is not None:
            rows = by_channel(made[0], -1 if pair.first.op_type in DENSE else 1)
            found.setdefault(pair, _Channels.none(len(rows))).observe(rows)

    with torch.inference_mode():
        for batch in batches:
            teacher.run(batch, visit=visit)
    return found


def _choose(
    pairs: Mapping[LayerPair, WeightSite], plan: QuantizationPlan, channels: Mapping[LayerPair, _Channels]
) -> dict[LayerPair, Array]:
    """Find the pairs that lose much by one scale for all channels, and divisors of their channels, (channels,)."""
    formats = {site.value: site.number_format for site in plan.activations}
    chosen = {}
    for pair, site in pairs.items():
        noise = _PairNoise.of(pair, site, formats[site.data_input].levels, channels[pair])
        best = min(noise.candidates(), key=noise.ratio)
        before, after = noise.ratio(np.ones_like(best)), noise.ratio(best)
        if before > _NOISY and before > _GAIN * after:
            chosen[pair] = best
    return chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class _PairNoise:
    """What the second layer of a pair reads and multiplies with.

    Attributes:
        reach: (channels,) length of the range of each channel, 0 inside.
        squares: (channels,) mean square of each.
        weight: (groups, outputs, inputs, taps) of the second layer, as the graph has it.
        largest: (channels,) magnitude of what is multiplied with each.
        levels: steps of the activation grid.
        weight_levels: steps of the weight grid on one side of 0.
        per_channel: each output has a weight step of its own.

    """

    reach: Array
    squares: Array
    weight: NDArray[np.floating[Any]]
    largest: Array
    levels: int
    weight_levels: int
    per_channel: bool

    @classmethod
    def of(cls, pair: LayerPair, site: WeightSite, levels: int, channels: _Channels) -> "_PairNoise":
        """Gather the numbers of a pair; ``levels`` are the codes of what lies between."""
        constant = constant_value(pair.second.inputs[1])
        assert constant is not None
        weight = by_channels(pair.second, np.ascontiguousarray(constant))
        largest = np.maximum(weight.max((1, 3)), -weight.min((1, 3))).reshape(-1)
        return cls(
            reach=channels.high - channels.low,
            squares=channels.squares / max(channels.count, 1),
            weight=weight,
            largest=largest.astype(np.float64),
            levels=levels - 1,
            weight_levels=site.number_format.qmax,
            per_channel=site.axis is not None,
        )

    def candidates(self) -> list[Array]:
        """Divisors that even out the activations, and as little as need be the weights; 1 for silent channels."""
        alive = (self.reach > 0.0) & (self.largest > 0.0)
        if not alive.any():
            return [np.ones_like(self.reach)]
        reach, weight = np.where(alive, self.reach, 1.0), np.where(alive, self.largest, 1.0)
        found = []
        for share in _SHARES:
            exponents = share * np.log2(reach) - (1.0 - share) * np.log2(weight)
            exponents = np.rint(exponents - np.median(exponents[alive])).clip(-_MOST, _MOST)
            found.append(np.where(alive, np.exp2(exponents), 1.0))
        return found

    def ratio(self, divisors: Array) -> float:
        """Noise over signal of the second layer's outputs, the mean over its channels."""
        shape = (len(self.weight), 1, -1, 1)
        factors, squares = divisors.reshape(shape), (self.squares / divisors**2).reshape(shape)
        step = (self.reach / divisors).max(initial=0.0) / self.levels
        found = []
        for weight in self._parts():
            weight *= factors
            steps = (weight.max((2, 3)) if self.per_channel else (self.largest * divisors).max()) / self.weight_levels
            power = np.square(weight, out=weight)
            noise = step**2 * power.sum((2, 3)) + steps**2 * squares.sum((2, 3)) * weight.shape[3]
            signal = np.multiply(power, squares, out=power).sum((2, 3))
            found.append(noise[signal > 0.0] / signal[signal > 0.0])
        ratios = np.concatenate(found)
        return float(ratios.mean() / 12.0) if ratios.size else 0.0

    def _parts(self) -> Iterator[Array]:
        """Magnitudes of the weights, a few outputs at a time: a large layer in float64 would take twice the file."""
        outputs = max(_PART * self.weight.shape[1] // max(self.weight.size, 1), 1)
        for start in range(0, self.weight.shape[1], outputs):
            yield np.abs(self.weight[:, start : start + outputs], dtype=np.float64)


def _divided(statistics: BatchNormStatistics, factors: Mapping[str, Array]) -> BatchNormStatistics:
    """Statistics of values that were divided by factors, by name."""
    entries = [
        replace(
            entry,
            scale=(entry.scale / factors[entry.output]).astype(np.float32),
            shift=(entry.shift / factors[entry.output]).astype(np.float32),
        )
        if entry.output in factors
        else entry
        for entry in statistics.entries
    ]
    return replace(statistics, entries=tuple(entries))


def _words(pairs: Sequence[LayerPair]) -> str:
    names = ", ".join(f"'{pair.first.name}' and '{pair.second.name}'" for pair in pairs[:_NAMED])
    more = f" and {len(pairs) - _NAMED} more pairs" if len(pairs) > _NAMED else ""
    return f"channels that differ too much for one scale were evened out, without loss, between {names}{more}"
