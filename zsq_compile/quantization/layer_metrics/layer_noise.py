"""Measure layer by layer what quantization costs: in the network after each step, and each layer by itself.

A layer is measured at what it makes, behind its folded Relu or Clip and before the result is rounded. So every grid
counts at the layers that read it, as their weights see it: a channel that one scale leaves three codes costs nothing
where it is rounded, but much where a large weight multiplies it.

By itself, a layer of the QDQ graph gets the float network's values, once in front of its inputs' grids, and once behind
them, which leaves the noise of its weights alone. The mean error of a channel is left out there: bias correction puts
into a layer's bias what makes up for the layers before it, which with the float network's values would look like noise.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor

from passes.plan import QuantizationPlan
from passes.qdq_names import QdqNames, codes_name, scale_name, zero_point_name
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import QuantizationError
from zsq_compile.quantization.layer_metrics.layer_quality import LayerQuality, limited_decibels
from zsq_compile.quantization.layer_metrics.layers import MeasuredLayer, find_layers, origin
from zsq_compile.quantization.layer_metrics.noise_causes import LARGE_BIAS, GridNoise, WeightNoise, by_channel, reason
from zsq_compile.quantization.samples import Batch
from zsq_compile.quantization.state import FloatNetwork, QuantizedState


def measure_layers(network: FloatNetwork, states: Mapping[str, QuantizedState]) -> tuple[LayerQuality, ...]:
    """Measure every layer of a network behind every step of quantization, in graph order.

    On at most 32 of the samples held out; the float values of one batch are held in memory. States are by the name of
    their step, in order. Those with other sites or bits than the last one have no layers to be compared with. Layers
    that make nothing but zeros on these samples, or nothing at all, are left out: there is no signal to compare with.

    Raises:
        QuantizationError: there is no data.

    """
    *_, last = states.values()
    plan, teacher, batches = last.plan, network.teacher, network.held_out.take_few(network.model)
    graphs = {step: state.qdq for step, state in states.items() if _has_sites_of(state.plan, plan)}
    # a Clip of its own that a grid does the work of stands in no QDQ graph, and loses nothing
    standing = {node.name for quantized in graphs.values() for node in quantized.graph}
    layers = tuple(layer for layer in find_layers(network.model, plan, network.target) if layer.node in standing)
    ratios = {
        step: measure_sqnr(TorchGraph(quantized, device=teacher.device), teacher, batches, layers)
        for step, quantized in graphs.items()
    }
    own = _OwnNoise(plan, last.qdq, teacher, layers)
    with torch.inference_mode():
        for batch in batches:
            own.observe(batch)
    return tuple(
        LayerQuality(
            node=layer.node,
            op_type=layer.op_type,
            value=layer.value,
            weight_bits=None if layer.weight is None else layer.weight.number_format.bits,
            activation_bits=min(site.number_format.bits for site in layer.sites),
            sqnr_db={step: measured[layer.value] for step, measured in ratios.items()},
            own_sqnr_db=own.sqnr_db(layer),
            reason=own.reason(layer),
        )
        for layer in layers
        if not own.is_silent(layer)
    )


def _has_sites_of(plan: QuantizationPlan, other: QuantizationPlan) -> bool:
    return (plan.activations, plan.weights) == (other.activations, other.weights)


def measure_sqnr(
    quantized: TorchGraph, teacher: TorchGraph, batches: Sequence[Batch], layers: Sequence[MeasuredLayer]
) -> dict[str, float]:
    """Ratio of signal to quantization noise of what each layer makes, in the network, by the name of the float value.

    10 log10(sum y^2 / sum (y_q - y)^2) over all elements of all batches, in dB, within plus and minus LIMIT_DB.

    Raises:
        QuantizationError: there is no data.

    """
    if not batches:
        raise QuantizationError("to measure layers takes at least one full batch of held-out samples, got none")
    by_node = {layer.node: layer for layer in layers}
    sums = {layer.value: [0.0, 0.0] for layer in layers}

    def compare(wanted: Mapping[str, Tensor], node: ir.Node, made: tuple[Tensor, ...]) -> None:
        layer = by_node.get(str(node.name))
        if layer is not None:
            signal = wanted[layer.value]
            sums[layer.value][0] += _power(signal)
            sums[layer.value][1] += _power(_limit(made[0], layer) - signal)

    with torch.inference_mode():
        for batch in batches:
            wanted = teacher.run(batch, list(sums))
            # by node: a quantized graph output has its layer's name, but is not what the layer makes
            quantized.run(batch, visit=partial(compare, wanted))
    return {value: limited_decibels(*powers) for value, powers in sums.items()}


class _OwnNoise:
    """What each layer of a QDQ graph loses when its inputs are those of the float network, added up over batches."""

    def __init__(
        self, plan: QuantizationPlan, quantized: ir.Model, teacher: TorchGraph, layers: Sequence[MeasuredLayer]
    ) -> None:
        self._plan, self._teacher, self._layers = plan, teacher, layers
        self._graph, self._names = TorchGraph(quantized, device=teacher.device), QdqNames(quantized)
        self._signal = dict.fromkeys((layer.node for layer in layers), 0.0)
        self._largest = dict(self._signal)
        self._total = {layer.node: _Variation() for layer in layers}
        self._weights = {layer.node: _Variation() for layer in layers}
        self._origins = {site.value: origin(site, plan) for layer in layers for site in layer.sites}
        self._grids = {site.value: GridNoise(site.value, site.number_format) for site in self._origins.values()}

    def observe(self, batch: Batch) -> None:
        """Add a batch."""
        wanted = {layer.value for layer in self._layers} | {name for layer in self._layers for name in layer.inputs}
        values = self._teacher.run(batch, sorted(wanted | set(self._grids)))
        seen: set[str] = set()
        for layer in self._layers:
            signal = values[layer.value]
            self._signal[layer.node] += _power(signal)
            if signal.numel():
                self._largest[layer.node] = max(self._largest[layer.node], float(signal.abs().max()))
            self._total[layer.node].add(self._error(layer, values, with_grids=True))
            if layer.weight is not None:
                self._weights[layer.node].add(self._error(layer, values, with_grids=False))
            for site in layer.sites:
                rounded = self._origins[site.value]
                if rounded.value not in seen:
                    seen.add(rounded.value)
                    scale, zero_point = (
                        self._graph.initializers[name(rounded.group)].float() for name in (scale_name, zero_point_name)
                    )
                    self._grids[rounded.value].observe(values[rounded.value], scale, zero_point, layer.channel_axis)

    def is_silent(self, layer: MeasuredLayer) -> bool:
        """Whether a layer has made nothing but zeros, or numbers that processors flush."""
        return self._largest[layer.node] < torch.finfo(torch.float32).tiny

    def sqnr_db(self, layer: MeasuredLayer) -> float:
        """Own ratio of a layer."""
        return limited_decibels(self._signal[layer.node], float(self._total[layer.node].power().sum()))

    def reason(self, layer: MeasuredLayer) -> str | None:
        """Why a layer loses what it loses."""
        grids = [self._grids[self._origins[site.value].value] for site in layer.sites]
        return reason(float(self._total[layer.node].power().sum()), self._weight_noise(layer), grids)

    def _error(self, layer: MeasuredLayer, values: Mapping[str, Tensor], *, with_grids: bool) -> Tensor:
        feeds = {name: values[name] for name in layer.inputs}
        for site in layer.sites:
            del feeds[site.value]
            if with_grids:
                rounded = self._origins[site.value]
                feeds[self._names.before_grid(rounded)] = values[rounded.value]
            else:
                feeds[self._names.behind_grid(site)] = values[site.value]
        result = self._names.result(layer.node)
        error = _limit(self._graph.run(feeds, [result])[result], layer) - values[layer.value]
        return by_channel(error, layer.channel_axis)

    def _weight_noise(self, layer: MeasuredLayer) -> WeightNoise | None:
        if layer.weight is None:
            return None
        noise = self._weights[layer.node].power()
        codes = self._graph.initializers.get(codes_name(layer.weight.bias))
        large = torch.zeros_like(noise, dtype=torch.bool)
        if codes is not None:
            large |= codes.double().abs() > LARGE_BIAS
            if layer.weight.axis is None:  # all channels have the step that one of them needs
                large |= large.any()
        power = float(noise.sum())
        return WeightNoise(
            bits=layer.weight.number_format.bits,
            power=power,
            large_bias=float(noise[large].sum()) / power if power > 0.0 else 0.0,
            largest_bias=0.0 if codes is None else float(codes.double().abs().max()),
        )


class _Variation:
    """Squared deviation of each channel of an error from that channel's mean, added up over batches."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, error: Tensor) -> None:
        """Add a batch, (channels, elements)."""
        count = error.new_full((len(error),), error.shape[1])
        sums = torch.stack([error.square().sum(1), error.sum(1), count]).double()
        self._sums = sums if self._sums is None else self._sums + sums

    def power(self) -> Tensor:
        """Sum over a channel's elements, float64, (channels,); with one element there is no mean to be taken out."""
        assert self._sums is not None
        squares, total, count = self._sums
        return torch.where(count > 1, squares - total.square() / count, squares).clamp(min=0.0)


def _limit(made: Tensor, layer: MeasuredLayer) -> Tensor:
    """Apply the Relu or Clip behind a layer, which a narrow grid stands in for in the QDQ graph."""
    return made if layer.limits == (None, None) else made.clamp(*layer.limits)


def _power(values: Tensor) -> float:
    return float(values.square().sum())
