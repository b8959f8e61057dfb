"""Measure the output noise of rounding one layer's weight, or one value, and nothing else.

The noise-to-signal ratio (NSR): mean squared error of an output over the output's variance, averaged over the
outputs; of an output of integers it is the share of elements that change. It needs no labels, and no guess at what an
output means: scores, boxes and maps are measured alike. Where the outputs are class scores it ranks layers as the
Kullback-Leibler divergence of the softmaxes does. Errors of different layers hardly know each other, so their powers
add, and the NSR of a joint choice is near the sum of its parts while it is small.

Each layer is measured as the finished network will have it: rounded as all weights are, with the mean error taken out
of its bias. Only what lies behind the layer runs again. The samples should be others than those that rounding has seen:
a weight of few bits fits the data that it was rounded on far better than any other.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from passes.analysis.find_uneven_values import find_even_ends
from passes.plan import ActivationSite, QuantizationPlan, Scale, WeightSite
from passes.quantizer_grid import dequantize_array, quantize_array
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.differentiable.fake_quantize import round_to_codes
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Advance, ignore_steps
from zsq_compile.quantization.calibration.scales import choose_weight_scales
from zsq_compile.quantization.closed_form import round_weights
from zsq_compile.quantization.rounding.second_moments import SecondMoments
from zsq_compile.quantization.samples import Batch
from zsq_compile.quantization.state import FloatNetwork

Rounded = Mapping[str, tuple[Tensor, Scale]]
"""By initializer: the weight on its grid, float32, and the scale of the grid."""

_RUINED = 1e30  # squared error of an element that is no longer finite


def round_at_widths(
    network: FloatNetwork,
    plan: QuantizationPlan,
    moments: Mapping[str, SecondMoments],
    config: QuantizationConfig,
) -> Rounded:
    """Round every weight at the width that a plan gives it, exactly as those of the finished model are rounded.

    The plan has activation scales; those of weights are chosen here. ``moments`` are second moments by initializer.
    """
    weights = network.teacher.initializers
    plan = plan.with_scales(weights=choose_weight_scales(plan, weights, config.weight_scales))
    moved, plan = round_weights(network, plan, config.rounding, moments)
    rounded = {}
    for name, (site, *_) in plan.sites_by_weight().items():
        weight, scale = weights[name], plan.weight_scales[name]
        codes = quantize_array(moved.get(name, weight).numpy(force=True), scale, site.number_format, site.axis)
        rounded[name] = torch.from_numpy(dequantize_array(codes, scale, site.axis)).to(weight), scale
    return rounded


def measure_weight_nsr(
    plan: QuantizationPlan,
    teacher: TorchGraph,
    candidates: Mapping[str, Mapping[int, Tensor]],
    samples: Sequence[Batch],
    *,
    correct_on: Sequence[Batch] = (),
    advance: Advance = ignore_steps,
) -> dict[str, dict[int, float]]:
    """NSR of every candidate weight, by node and bits.

    That of a layer which no value of a fixed size lies behind (see ``find_even_ends``) is measured at what it makes.

    Args:
        plan: names the layers.
        teacher: the float graph.
        candidates: weights on their grids, by initializer and bits; layers without are not measured.
        samples: batches to measure on.
        correct_on: calibration batches; their mean error is taken out of each layer's bias. None leaves it in.
        advance: called with the number of batches done.

    """
    sites = [site for site in plan.weights if site.initializer in candidates]
    nodes = {str(node.name): node for node in teacher.model.graph}
    outputs = {site.node: str(nodes[site.node].outputs[0].name) for site in sites}
    ends = find_even_ends(teacher.model)
    suffixes = {site.node: _suffix(teacher, {outputs[site.node]}, ends) for site in sites}
    shifts = _mean_shifts(teacher, sites, outputs, candidates, correct_on)
    needed = {site.data_input for site in sites}.union(*(suffix.boundary for suffix in suffixes.values()))
    meter = _Meter()
    meters = {site.node: meter if suffixes[site.node].outputs else _Meter() for site in sites}
    alone = {name for name, one in meters.items() if one is not meter}
    with torch.inference_mode():
        for feed in samples:
            values = teacher.run(feed, sorted(needed.union(ends, (outputs[name] for name in alone))))
            meter.see_reference({name: values[name] for name in ends})
            for site in sites:
                output, data = outputs[site.node], {site.data_input: values[site.data_input]}
                if site.node in alone:
                    meters[site.node].see_reference({output: values[output]})
                for bits, weight in candidates[site.initializer].items():
                    made = teacher.run(data, [output], replace={site.initializer: weight})[output]
                    shift = shifts.get((site.node, bits))
                    corrected = made if shift is None else made - shift.reshape(1, -1, *[1] * (made.ndim - 2))
                    changed = {output: corrected}
                    seen = changed if site.node in alone else suffixes[site.node].run(teacher, values, changed)
                    meters[site.node].see((site.node, bits), seen)
            advance(1)
    return {
        site.node: {bits: meters[site.node].nsr((site.node, bits)) for bits in candidates[site.initializer]}
        for site in sites
    }


def measure_activation_nsr(
    plan: QuantizationPlan,
    teacher: TorchGraph,
    samples: Sequence[Batch],
    advance: Advance = ignore_steps,
) -> dict[str, float]:
    """NSR of quantizing the values of one group as a calibrated plan says, by group name; see measure_weight_nsr."""
    members: dict[str, list[ActivationSite]] = {}
    for site in plan.activations:
        members.setdefault(site.group, []).append(site)
    ends = find_even_ends(teacher.model)
    suffixes = {group: _suffix(teacher, {site.value for site in sites}, ends) for group, sites in members.items()}
    needed = {site.value for site in plan.activations}.union(*(suffix.boundary for suffix in suffixes.values()))
    meter = _Meter()
    with torch.inference_mode():
        for feed in samples:
            values = teacher.run(feed, sorted(needed.union(ends)))
            meter.see_reference({name: values[name] for name in ends})
            for group, sites in members.items():
                scale = plan.activation_scales[group]
                changed = {site.value: _on_grid(values[site.value], scale, site) for site in sites}
                meter.see(group, suffixes[group].run(teacher, values, changed))
            advance(1)
    return {group: meter.nsr(group) for group in members}


def measure_nsr(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> float:
    """NSR of one network's outputs against those of the float network on the same samples."""
    meter = _Meter()
    meter.see_reference(reference)
    meter.see(None, outputs)
    return meter.nsr(None)


@dataclass(frozen=True, slots=True)
class _Suffix:
    """What lies behind some values: the other values that it reads, and the ends that it leads to."""

    boundary: frozenset[str]
    outputs: tuple[str, ...]

    def run(
        self, teacher: TorchGraph, values: Mapping[str, Tensor], changed: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Compute the ends when some values are changed; all others come from ``values``."""
        return teacher.run({**{name: values[name] for name in self.boundary}, **changed}, self.outputs)


def _suffix(teacher: TorchGraph, starts: Collection[str], ends: Sequence[str]) -> _Suffix:
    behind, boundary = set(starts), set[str]()
    for node in teacher.model.graph:
        inputs = {value.name for value in node.inputs if value is not None and value.name}
        if inputs & behind:
            behind.update(value.name for value in node.outputs if value.name)
            boundary |= inputs
    outputs = tuple(name for name in ends if name in behind)
    return _Suffix(frozenset(boundary - behind - teacher.initializers.keys()), outputs)


def _mean_shifts(
    teacher: TorchGraph,
    sites: Sequence[WeightSite],
    outputs: Mapping[str, str],
    candidates: Mapping[str, Mapping[int, Tensor]],
    batches: Sequence[Batch],
) -> dict[tuple[str, int], Tensor]:
    """Mean error of each layer's output channels, (channels,), by node and bits.

    Layers are linear, so the mean of their outputs is their output for the mean of their inputs: one sample.
    """
    sites = [site for site in sites if site.bias is not None] if batches else []
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    shifts = {}
    with torch.inference_mode():
        for batch in batches if sites else ():
            for name, value in teacher.run(batch, sorted({site.data_input for site in sites})).items():
                totals[name] = totals.get(name, 0.0) + value.sum(0, keepdim=True)
                counts[name] = counts.get(name, 0) + len(value)
        for site in sites:
            mean, output = {site.data_input: totals[site.data_input] / counts[site.data_input]}, outputs[site.node]
            wanted = teacher.run(mean, [output])[output]
            for bits, weight in candidates[site.initializer].items():
                error = teacher.run(mean, [output], replace={site.initializer: weight})[output] - wanted
                shifts[site.node, bits] = error.transpose(0, 1).flatten(1).mean(1)
    return shifts


def _on_grid(value: Tensor, scale: Scale, site: ActivationSite) -> Tensor:
    step, zero_point = float(scale.scale), int(scale.zero_point)
    return (round_to_codes(value, step, site.number_format, zero_point) - zero_point) * step


class _Meter:
    """Adds up errors over feeds: of each changed network, against the outputs of the float network."""

    def __init__(self) -> None:
        self._reference: dict[str, Tensor] = {}
        self._signal: dict[str, Tensor] = {}  # by output: count, sum, sum of squares
        self._errors: dict[tuple[Hashable, str], float] = {}

    def see_reference(self, outputs: Mapping[str, Tensor]) -> None:
        """Take the float network's outputs for the feed that the next errors belong to."""
        self._reference = dict(outputs)
        for name, output in outputs.items():
            finite = output[torch.isfinite(output)].double()
            entry = torch.tensor([finite.numel(), finite.sum(), finite.square().sum()], dtype=torch.float64)
            self._signal[name] = self._signal.get(name, 0.0) + entry

    def see(self, key: Hashable, outputs: Mapping[str, Tensor]) -> None:
        """Take the outputs of a changed network; those that are missing did not change."""
        for name, output in outputs.items():
            reference = self._reference[name]
            finite = torch.isfinite(reference)
            difference = output[finite].double() - reference[finite].double()
            if not reference.is_floating_point():
                difference = (difference != 0).double()
            error = difference.square().nan_to_num(nan=_RUINED, posinf=_RUINED).sum()
            self._errors[key, name] = self._errors.get((key, name), 0.0) + float(error)

    def nsr(self, key: Hashable) -> float:
        """Noise-to-signal ratio, averaged over all outputs."""
        ratios = [self._errors.get((key, name), 0.0) / self._power(name) for name in self._signal]
        return sum(ratios) / max(len(ratios), 1)

    def _power(self, name: str) -> float:
        count, total, squares = (float(entry) for entry in self._signal[name])
        if not self._reference[name].is_floating_point():
            return max(count, 1.0)
        return max(squares - total * total / max(count, 1.0), 1e-30)
