"""From a float network and calibration data to the QDQ network, one step after the other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from backends.target import Target
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.plan import QuantizationPlan
from passes.quantize.prepare_float import prepare_float
from zsq_compile.config.compile import CompileConfig, QuantizationConfig
from zsq_compile.progress import Clock
from zsq_compile.quantization.closed_form import Calibrate, CorrectBiases, Round
from zsq_compile.quantization.distillation.batches import LiveSamples
from zsq_compile.quantization.distillation.distill import Distill
from zsq_compile.quantization.layer_metrics.layer_noise import measure_layers
from zsq_compile.quantization.layer_metrics.layer_quality import LayerQuality
from zsq_compile.quantization.mixed_precision.search import ChooseBits
from zsq_compile.quantization.placement.leave_float import LeaveFloat, WidenFloats
from zsq_compile.quantization.plan_file import PlanFile
from zsq_compile.quantization.reconstruction.budget import LearningConfig
from zsq_compile.quantization.reconstruction.reconstruct import Reconstruct
from zsq_compile.quantization.state import FloatNetwork, QuantizedState, Step
from zsq_compile.stages.measure_times import measure_times


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Quantized:
    """What the steps have made of a network: states behind those that did something, in order, and records, by step."""

    states: Mapping[str, QuantizedState]
    records: Mapping[str, Any]
    layers: tuple[LayerQuality, ...]

    @property
    def state(self) -> QuantizedState:
        """The last one, which ships."""
        return list(self.states.values())[-1]

    def replaced(self, network: FloatNetwork, state: QuantizedState, clock: Clock) -> "Quantized":
        """Let another form of the last state ship, and measure its layers again: it may have fewer."""
        states = {**self.states, list(self.states)[-1]: state}
        with clock.stage("measure"):
            return replace(self, states=states, layers=measure_layers(network, states))


def fold_network(
    model: ir.Model,
    statistics: BatchNormStatistics,
    *,
    equalize: bool,
    merge: bool = True,
    target: Target | None = None,
) -> tuple[ir.Model, BatchNormStatistics]:
    """Fold BatchNormalization into the layers; return the float model, and the statistics that hold for it.

    Those of channels that were equalized hold no longer. ``merge`` is for parallel branches, see ``is_wide``; for all
    arguments see ``prepare_float``.
    """
    folded = prepare_float(model, statistics, equalize, merge=merge, target=target)
    return folded, replace(statistics, entries=()) if equalize else statistics


def is_wide(config: QuantizationConfig, mixed: bool, given: PlanFile | None) -> bool:
    """Whether every weight keeps 8 bits.

    Parallel branches are merged only then: a sum of kernels, one of them a way round, has weights of so many sizes that
    4 bits for it cost 5 dB more than 4 bits for each (RepVGG of tests/breadth).
    """
    asked = [*config.layer_bits.values(), *(given.weights.values() if given else ())]
    asked += given.layer_bits.values() if given else ()
    return not mixed and min([config.bits, *(bits for bits in asked if bits != "float")]) >= 8


def is_learned(config: CompileConfig) -> bool:
    """Whether the calibration samples will be learned on, as far as the configuration says."""
    named = (bits for bits in config.quantization.layer_bits.values() if bits != "float")
    narrow = config.mixed or min(config.quantization.bits, config.quantization.act_bits, *named) < 8
    return config.distill is not None or (config.learned_rounding is not None and narrow)


def steps_for(config: CompileConfig, live: LiveSamples | None = None) -> tuple[Step, ...]:
    """Choose the steps, and give each its section of the configuration; ``live`` is for the distillation."""
    chosen, distill = config.quantization, config.distill
    learning = LearningConfig(
        effort=config.effort, time_budget=config.time_budget, memory=config.memory, seed=config.seed
    )
    steps: list[Step] = [Calibrate(config=chosen)]
    if config.mixed:
        steps.append(ChooseBits(config=chosen, floor=config.least_kept))
    placed = config.keep_quality != "off"
    steps.append(Round(method=chosen.rounding))
    if placed:
        steps.append(
            LeaveFloat(quality=config.keep_quality, measure_times=measure_times if config.speed_trials else None)
        )
    steps.append(CorrectBiases(form=chosen.bias_correction))
    if config.learned_rounding is not None:  # half of the time is for the distillation
        share = 1.0 if distill is None else 0.5
        steps.append(Reconstruct(rounding=config.learned_rounding, learning=learning, share=share))
    if distill is not None:
        steps.append(Distill(config=distill, learning=learning, live=live))
    if placed:
        steps.append(WidenFloats())
    return tuple(steps)


def run_steps(
    network: FloatNetwork, plan: QuantizationPlan, steps: Iterable[Step], clock: Clock
) -> tuple[dict[str, QuantizedState], dict[str, Any]]:
    """Run steps from a plan without scales on; return the states behind those that did something, and all records."""
    state = QuantizedState(base=network.model, qdq=network.model, plan=plan)
    states, records = dict[str, QuantizedState](), dict[str, Any]()
    for step in steps:
        behind, records[step.name] = step.run(network, state, clock)
        if behind is not state:
            states[step.name] = state = behind
    return states, records


def quantize(network: FloatNetwork, plan: QuantizationPlan, steps: Iterable[Step], clock: Clock) -> Quantized:
    """Run steps from a plan without scales on, and measure what each layer lost in each."""
    states, records = run_steps(network, plan, steps, clock)
    with clock.stage("measure"):
        return Quantized(states=states, records=records, layers=measure_layers(network, states))
