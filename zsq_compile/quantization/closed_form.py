"""The steps that need no learning: calibration, rounding, bias correction."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from backends.memory import giving_back
from passes.plan import QuantizationPlan, Scale, WeightSite
from passes.qdq_names import codes_name
from zsq_compile.config.compile import BiasCorrection, QuantizationConfig, Rounding
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Advance, Clock, ignore_steps
from zsq_compile.quantization.bias.bias_correction import correct_analytically, correct_empirically
from zsq_compile.quantization.bias.moment_propagation import propagate_moments
from zsq_compile.quantization.calibration.calibrate import calibrate
from zsq_compile.quantization.calibration.scales import choose_weight_scales
from zsq_compile.quantization.rounding.gptq import round_with_gptq
from zsq_compile.quantization.rounding.recurrent import round_recurrent
from zsq_compile.quantization.rounding.second_moments import (
    SecondMoments,
    find_measurable,
    group_layers,
    mix_second_moments,
)
from zsq_compile.quantization.rounding.squant import round_with_squant
from zsq_compile.quantization.samples import Batch, Population
from zsq_compile.quantization.state import FloatNetwork, QuantizedState, make_state, replace_initializers


def calibrate_plan(
    plan: QuantizationPlan,
    teacher: TorchGraph,
    batches: Sequence[Batch] | Sequence[Population],
    config: QuantizationConfig,
    advance: Advance = ignore_steps,
) -> QuantizationPlan:
    """Give a plan all its scales: activations from the data, as ``calibrate`` does, weights from the weights."""
    scales = calibrate(plan, teacher, batches, config.calibration_method, advance)
    plan = plan.with_scales(activations=scales)
    return plan.with_scales(weights=choose_weight_scales(plan, teacher.initializers, config.weight_scales))


def round_weights(
    network: FloatNetwork,
    plan: QuantizationPlan,
    method: Rounding | None,
    moments: Mapping[str, SecondMoments] | None = None,
    advance: Advance = ignore_steps,
) -> tuple[Mapping[str, Tensor], QuantizationPlan]:
    """Move the weights of a float network onto their grids.

    Args:
        network: its calibration samples are seen once for ``gptq``, and not at all for the others.
        plan: calibrated; its weight scales start the search for better ones.
        method: those that learn start from ``gptq``, and so does None.
        moments: second moments of the calibration samples by initializer; None measures them.
        advance: called with the number of batches done.

    Returns:
        The weights that were moved, by initializer, and the plan with the scales of their grids. Inserting that plan
        finds the codes again, exactly.

    """
    match method:
        case "nearest":
            return {}, plan
        case "squant":
            return round_with_squant(plan, network.teacher.initializers), plan
        case _:
            rounded: dict[str, tuple[Tensor, Scale]] = {}
            with giving_back():  # moments, columns and maps all come and go, each large
                for measured in [moments] if moments is not None else _measured_in_groups(network, plan, advance):
                    rounded |= round_with_gptq(plan, network.teacher.initializers, measured)
                if plan.stored:
                    batches = network.calibration.fitting(network.model)
                    rounded |= round_recurrent(plan, network.teacher, batches)
            scales = {name: scale for name, (_, scale) in rounded.items()}
            return {name: weight for name, (weight, _) in rounded.items()}, plan.with_scales(weights=scales)


def _measured_in_groups(
    network: FloatNetwork, plan: QuantizationPlan, advance: Advance
) -> Iterator[Mapping[str, SecondMoments]]:
    """Yield second moments of as many layers as fit in memory, one pass over the data after the other."""
    populations = network.calibration.fitting_parts(network.model)
    for layers in group_layers(find_measurable(plan, network.teacher)):
        yield mix_second_moments(layers, network.teacher, populations, advance)


def correct_biases(
    network: FloatNetwork, state: QuantizedState, form: BiasCorrection
) -> tuple[QuantizedState, dict[str, str]]:
    """Take the mean errors of a quantized network back out of the biases of ``qdq``.

    ``auto`` is analytic where the moments of a layer's input are known and empirical elsewhere. Where the samples come
    from several populations, it is empirical everywhere on the only one that is not improbable beside another, and
    corrects nothing where there are more: what coarse ranges shift on synthetic samples they do not shift on real ones.
    ``empirical`` corrects as far as these agree. Returns the state, and the form used by node name.
    """
    teacher, plan = network.teacher, state.plan
    quantized = TorchGraph(state.qdq, device=teacher.device)
    changed: dict[str, Tensor] = {}
    used: dict[str, str] = {}
    if form == "analytic" or (form == "auto" and network.calibration.populations is None):
        moments = propagate_moments(network.model, network.statistics, teacher.initializers)
        changed = correct_analytically(plan, quantized, teacher, moments)
        quantized.initializers.update(changed)
        used = {site.node: "analytic" for site in plan.weights if _has_changed(site, changed)}
    if form == "empirical" or (form == "auto" and network.calibration.probable().populations is None):
        rest = [site.node for site in plan.weights if site.node not in used]
        measured = _correct_on_samples(network, plan, quantized, rest)
        behind = (site for site in plan.weights if site.node in rest)
        used |= {site.node: "empirical" for site in behind if _has_changed(site, measured)}
        changed |= measured
    return QuantizedState(base=state.base, qdq=replace_initializers(state.qdq, changed), plan=plan), used


def _correct_on_samples(
    network: FloatNetwork, plan: QuantizationPlan, quantized: TorchGraph, layers: Sequence[str]
) -> dict[str, Tensor]:
    """Correct layers on calibration samples; nothing where a batch has not one sample of every population."""
    samples, teacher = network.calibration.probable(), network.teacher
    batches = samples.join(network.model)
    if samples.populations is None:
        return correct_empirically(plan, quantized, teacher, batches, layers)
    numbers = torch.split(samples.populations, len(next(iter(batches[0].values()))))[: len(batches)]
    if {one for part in numbers for one in part.tolist()} != set(samples.populations.tolist()):
        return {}
    return correct_empirically(plan, quantized, teacher, batches, layers, numbers)


def count_batches(populations: Sequence[Population]) -> int:
    """Count the batches of all populations."""
    return sum(len(one.batches) for one in populations)


def _has_changed(site: WeightSite, changed: Mapping[str, Tensor]) -> bool:
    return site.bias in changed or codes_name(site.bias) in changed


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibrate:
    """Step: read the ranges of activations off the samples, and the scales of weights off the weights."""

    name: ClassVar[str] = "calibrate"
    config: QuantizationConfig

    def run(self, network: FloatNetwork, state: QuantizedState, clock: Clock) -> tuple[QuantizedState, None]:
        """See Step."""
        populations = network.calibration.fitting_parts(network.model)
        with clock.stage(self.name, 2 * count_batches(populations)) as advance:
            plan = calibrate_plan(state.plan, network.teacher, populations, self.config, advance)
            return make_state(state.base, plan), None


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Step: choose the integer codes of the weights."""

    name: ClassVar[str] = "round"
    method: Rounding | None = None

    def run(self, network: FloatNetwork, state: QuantizedState, clock: Clock) -> tuple[QuantizedState, None]:
        """See Step."""
        passes = len(group_layers(find_measurable(state.plan, network.teacher)))
        batches = count_batches(network.calibration.fitting_parts(network.model))
        with clock.stage(self.name, passes * batches) as advance:
            weights, plan = round_weights(network, state.plan, self.method, advance=advance)
            return make_state(replace_initializers(state.base, weights), plan), None


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectBiases:
    """Step: take the mean errors of the layers back out of their biases; the record is the form used by node."""

    name: ClassVar[str] = "correct biases"
    form: BiasCorrection = "auto"

    def run(self, network: FloatNetwork, state: QuantizedState, clock: Clock) -> tuple[QuantizedState, dict[str, str]]:
        """See Step."""
        with clock.stage(self.name):
            return correct_biases(network, state, self.form)
