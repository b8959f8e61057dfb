"""Build networks of chosen widths, and measure them: each layer alone, and all of them together.

Layers are rounded once for each width; a joint choice takes its weights from there, and gets its biases corrected as
the finished network will.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from passes.analysis.find_uneven_values import find_even_ends
from passes.emit.emit import emitted_bytes, weight_bytes
from passes.plan import QuantizationPlan, Scale, WeightSite
from passes.quantize.override_widths import Width, Widths, override_widths
from zsq_compile.config.compile import WIDTHS, QuantizationConfig
from zsq_compile.differentiable.class_scores import tensor_output
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.metrics import agreement, decision_output
from zsq_compile.progress import Advance, ignore_steps
from zsq_compile.quantization.calibration.calibrate import calibrate
from zsq_compile.quantization.closed_form import correct_biases
from zsq_compile.quantization.mixed_precision.bit_allocation import LayerOptions
from zsq_compile.quantization.mixed_precision.sensitivity import (
    Rounded,
    measure_activation_nsr,
    measure_nsr,
    measure_weight_nsr,
    round_at_widths,
)
from zsq_compile.quantization.planning import plan_narrowest
from zsq_compile.quantization.rounding.second_moments import find_measurable, group_layers, mix_second_moments
from zsq_compile.quantization.samples import count_fitting_samples
from zsq_compile.quantization.state import FloatNetwork, make_state, replace_initializers


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A joint choice that was measured on the samples held out.

    Attributes:
        what: in words.
        widths: of every layer, and of the values that have a width of their own.
        file_bytes: size of its file.
        nsr: noise-to-signal ratio of the outputs.
        agreement: share of common decisions, or of the user's metric that is kept where there is one; None when no
            output has classes.

    """

    what: str
    widths: Widths
    file_bytes: int
    nsr: float
    agreement: float | None


class Bench:
    """Measures on the samples held out; ConfigError when there are none.

    Args:
        network: the float network.
        widest: plan with the most bits that each layer may have, calibrated.
        config: least bits of edge layers, and how scales, codes and biases are chosen.
        advance: called with the number of steps done: a width rounded, or a batch measured.

    Attributes:
        narrowest: plan with the fewest bits that each layer may have.
        layers: what each weight can be stored as, with its NSR, in graph order; named by the first of its layers.
        trials: every joint choice measured so far.

    """

    def __init__(
        self,
        network: FloatNetwork,
        widest: QuantizationPlan,
        config: QuantizationConfig,
        advance: Advance = ignore_steps,
    ) -> None:
        self.network, self.widest, self.config = network, widest, config
        self.narrowest = plan_narrowest(network.model, network.target, config)
        self.trials: list[Trial] = []
        self._populations = network.calibration.fitting_parts(network.model)
        self._held_out = held_out_batches(network)
        if not self._held_out:
            raise ConfigError(
                "mixed measures on samples held out, and there is not one batch of them: give more samples"
            )
        self._scales: dict[int, Mapping[str, Scale]] = {}
        self._ends = find_even_ends(network.model)
        self._reference = self._run(network.teacher)
        self._rounded = self._round(advance)
        self.layers: tuple[LayerOptions, ...] = self._measure_layers(advance)

    def measure(self, what: str, bits: Mapping[str, int], values: Mapping[str, Width] | None = None) -> Trial:
        """Build the network of a joint choice, ``bits`` of all layers and width of some values, and run it."""
        network, plan = self.network, self._plan(bits, values or {})
        weights = {site.initializer: self._weight(site)[0] for site in plan.weights}
        rounded = make_state(replace_initializers(network.model, weights), plan)
        corrected, _ = correct_biases(network, rounded, self.config.bias_correction)
        outputs = self._run(TorchGraph(corrected.qdq, device=network.teacher.device))
        trial = Trial(
            what=what,
            widths=Widths(weights=bits, activations=values or {}),
            file_bytes=emitted_bytes(network.model, plan, network.target),
            nsr=measure_nsr(self._reference, outputs),
            agreement=network.asked(what, corrected) if network.asked else _agreement(self._reference, outputs),
        )
        self.trials.append(trial)
        return trial

    def file_bytes(self, bits: Mapping[str, int]) -> int:
        """Size of the file in which the layers have so many bits."""
        return emitted_bytes(self.network.model, self._plan(bits, {}), self.network.target)

    def value_nsr(self, bits: int) -> dict[str, float]:
        """NSR of quantizing each group of values, all else in float, to so many bits, by the name of the group."""
        plan = self._plan({}, {site.group: bits for site in self.widest.activations})
        return measure_activation_nsr(plan, self.network.teacher, self._held_out)

    def _plan(self, bits: Mapping[str, int], values: Mapping[str, Width]) -> QuantizationPlan:
        """Plan with the scales of everything that is known of: values, and weights in ``bits``."""
        plan = override_widths(self.widest, self.network.target, Widths(weights=bits, activations=values))
        default = dict(self.widest.activation_scales)
        changed = {group: self._scales_at(width)[group] for group, width in values.items() if width != "float"}
        weights = {
            site.initializer: self.widest.weight_scales[site.initializer] for site in plan.stored if not site.tied
        }
        weights |= {site.initializer: self._weight(site)[1] for site in plan.weights}
        return plan.with_scales(activations=default | changed, weights=weights)

    def _weight(self, site: WeightSite) -> tuple[Tensor, Scale]:
        return self._rounded[site.number_format.bits][site.initializer]

    def _scales_at(self, bits: int) -> Mapping[str, Scale]:
        """Scales of all activation groups at one width."""
        if bits not in self._scales:
            wanted = Widths(activations={site.value: bits for site in self.widest.activations})
            plan = override_widths(self.widest, self.network.target, wanted)
            method = self.config.calibration_method
            self._scales[bits] = calibrate(plan, self.network.teacher, self._populations, method)
        return self._scales[bits]

    def _round(self, advance: Advance) -> dict[int, Rounded]:
        """Round every layer at every width that it may have."""
        network, floors = self.network, {site.node: site.number_format.bits for site in self.narrowest.weights}
        layers = [] if self.config.rounding in ("nearest", "squant") else find_measurable(self.widest, network.teacher)
        measurable = {site.node for layer in layers for site in layer.sites}
        rest = tuple(site for site in self.widest.weights if site.node not in measurable)
        rounded: dict[int, Rounded] = {}
        for group in ([], *group_layers(layers)):
            members = tuple(site for layer in group for site in layer.sites) or rest
            moments = mix_second_moments(group, network.teacher, self._populations) if group else {}
            for bits in dict.fromkeys(min(width, network.target.weight.bits) for width in WIDTHS):
                sites = tuple(s for s in members if floors[s.node] <= bits <= s.number_format.bits)
                widths = Widths(weights={site.node: bits for site in sites})
                plan = override_widths(replace(self.widest, weights=sites, stored=()), network.target, widths)
                plan = plan.with_scales(activations=self.widest.activation_scales)
                rounded[bits] = {**rounded.get(bits, {}), **round_at_widths(network, plan, moments, self.config)}
        advance(len(rounded))
        return rounded

    def _measure_layers(self, advance: Advance) -> tuple[LayerOptions, ...]:
        teacher, target = self.network.teacher, self.network.target
        candidates: dict[str, dict[int, Tensor]] = {}
        for bits, rounded in self._rounded.items():
            for name, (weight, _) in rounded.items():
                candidates.setdefault(name, {})[bits] = weight
        few = self.network.calibration.batches(count_fitting_samples(self.network.model))  # all values are kept
        correct_on = () if self.config.bias_correction == "none" else few
        ratios = measure_weight_nsr(
            self.widest, teacher, candidates, self._held_out, correct_on=correct_on, advance=advance
        )
        options = []
        for name, sites in self.widest.sites_by_weight().items():
            count, widths = teacher.initializers[name].numel(), candidates.get(name, {})
            options.append(
                LayerOptions(
                    node=sites[0].node,
                    size={bits: weight_bytes(count, bits, target) for bits in widths},
                    nsr={bits: sum(ratios[site.node][bits] for site in sites) for bits in widths},
                )
            )
        return tuple(options)

    def _run(self, graph: TorchGraph) -> dict[str, Tensor]:
        with torch.inference_mode():
            parts = [graph.run(feed, self._ends) for feed in self._held_out]
        return {name: torch.cat([one[name].reshape(one[name].shape or (1,)) for one in parts]) for name in self._ends}


def held_out_batches(network: FloatNetwork) -> list[dict[str, Tensor]]:
    """Batches of the samples held out that widths are chosen by, each as large as memory allows."""
    return network.held_out.halves()[0].batches(count_fitting_samples(network.model))


def _agreement(reference: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> float | None:
    name = decision_output({name: tensor_output(tensor) for name, tensor in reference.items()})
    return None if name is None else agreement(reference[name].numpy(force=True), outputs[name].numpy(force=True))
