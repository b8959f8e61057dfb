"""The middle of the sentence: from a float network and calibration data to the QDQ network, closed forms first."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from backends.target import Target
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.plan import QuantizationPlan
from passes.quantize.override_widths import override_widths
from zsq_compile.config.compile import CompileConfig
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Clock
from zsq_compile.quantization.calibration.calibrate import Batch
from zsq_compile.quantization.closed_form import calibrated_plan, correct_biases, insert_quantizers, rounded_model
from zsq_compile.quantization.distillation.distill import Distillation, DistillRecord
from zsq_compile.quantization.layer_metrics.layer_noise import layer_qualities
from zsq_compile.quantization.layer_metrics.layer_quality import LayerQuality
from zsq_compile.quantization.mixed_precision.search import MixedChoice, choose_widths
from zsq_compile.quantization.mixed_precision.trials import Workpiece, samples_at_a_time
from zsq_compile.quantization.planning import narrowest_plan
from zsq_compile.quantization.reconstruction.budget import LearningBudget
from zsq_compile.quantization.reconstruction.learning import is_learnable, learning
from zsq_compile.quantization.reconstruction.reconstruct import BlockRecord
from zsq_compile.quantization.rounding.second_moments import SecondMoments
from zsq_compile.stages.calibration_data import CalibrationData, feeds
from zsq_compile.stages.live_samples import live_batches


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizedNetwork:
    """A network with its quantizers.

    Attributes:
        model: the QDQ model, weights not packed yet.
        plan: with all scales.
        blocks: what became of each block that was learned; empty where nothing was.
        distillation: what became of training all of it together; None where that was not asked for.
        layers: what each layer lost, after each step of quantization.
        choice: of the widths, where they were chosen.

    """

    model: ir.Model
    plan: QuantizationPlan
    blocks: tuple[BlockRecord, ...]
    distillation: DistillRecord | None
    layers: tuple[LayerQuality, ...]
    choice: MixedChoice | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FloatNetwork:
    """What is quantized, and with what.

    Attributes:
        model: folded, with a bias in every layer that can have one.
        target: where it will run.
        statistics: BatchNormalization statistics of the channels as they are in ``model``, possibly none.
        samples: calibration data.
        inputs: of the network.
        config: everything that can be decided.
        device: where learning and distilling run; the closed forms run on the processor.
        limit: bytes that the file may have, where widths are chosen for that.

    """

    model: ir.Model
    target: Target
    statistics: BatchNormStatistics
    samples: CalibrationData
    inputs: Sequence[InputSpec]
    config: CompileConfig
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    limit: int | None = None


def quantize_network(network: FloatNetwork, plan: QuantizationPlan, clock: Clock) -> QuantizedNetwork:
    """Quantize a float network as a plan says; ``clock`` times and shows the stages."""
    model, samples, inputs, chosen = network.model, network.samples, network.inputs, network.config.quantization
    teacher, batches = TorchGraph(model), samples.batches(inputs)
    with clock.stage("calibrate", 2 * len(batches)) as advance:
        plan = calibrated_plan(plan, teacher, batches, chosen, advance)
    together, choice, moments = samples.joined(inputs, model), None, None
    if network.config.mixed:
        plan, choice, moments = _mixed(network, plan, teacher, batches, together, clock)
    steps = {"scales": insert_quantizers(model, plan)}
    with clock.stage("round", len(batches)) as advance:
        rounded, plan = rounded_model(model, plan, teacher, batches, chosen, advance, moments=moments)
    with clock.stage("quantize"):
        quantized = insert_quantizers(rounded, plan)
        steps["round"] = quantized.clone()
        correct_biases(model, quantized, plan, teacher, network.statistics, together, chosen)
        steps["biases"] = quantized
    learner = teacher if network.device.type == "cpu" else TorchGraph(model, device=network.device)
    blocks: tuple[BlockRecord, ...] = ()
    if network.config.learned_rounding is not None and is_learnable(plan):
        rounded, quantized, plan, blocks = _learned(network, rounded, quantized, plan, learner, clock)
        steps["learn"] = quantized
    distillation = None
    if network.config.distill is not None:
        quantized, plan, distillation = _distilled(
            network, network.config.distill, rounded, quantized, plan, learner, clock
        )
        steps["distill"] = quantized
    with clock.stage("measure"):
        layers = layer_qualities(model, plan, network.target, teacher, steps, samples.judging(inputs, model))
    return QuantizedNetwork(
        model=quantized, plan=plan, blocks=blocks, distillation=distillation, layers=layers, choice=choice
    )


def _mixed(
    network: FloatNetwork,
    plan: QuantizationPlan,
    teacher: TorchGraph,
    batches: Sequence[Batch],
    together: Sequence[Batch],
    clock: Clock,
) -> tuple[QuantizationPlan, MixedChoice, Mapping[str, SecondMoments]]:
    """Give a calibrated plan the widths that suit best."""
    model, config = network.model, network.config
    work = Workpiece(
        model=model,
        teacher=teacher,
        target=network.target,
        statistics=network.statistics,
        widest=plan,
        narrowest=narrowest_plan(model, network.target, config),
        config=config,
        batches=batches,
        joined=together,
        held_out=feeds(network.samples.held_out, network.inputs, largest=samples_at_a_time(model)),
    )
    with clock.stage("choose widths", work.steps) as advance:
        choice, moments = choose_widths(work, limit=network.limit, floor=config.min_agreement, advance=advance)
        plan = override_widths(plan, network.target, choice.chosen.widths)
        return calibrated_plan(plan, teacher, batches, config.quantization), choice, moments


def _learned(
    network: FloatNetwork,
    rounded: ir.Model,
    quantized: ir.Model,
    plan: QuantizationPlan,
    teacher: TorchGraph,
    clock: Clock,
) -> tuple[ir.Model, ir.Model, QuantizationPlan, tuple[BlockRecord, ...]]:
    """Learn on from what the closed forms left; the float model on its new grids comes first."""
    config = network.config
    assert config.learned_rounding is not None
    deadline = clock.deadline(config.time_budget)
    if deadline is not None and time.perf_counter() >= deadline:
        return rounded, quantized, plan, ()
    if deadline is not None and config.distill is not None:  # half of the time is for that
        deadline = min(deadline, (time.perf_counter() + deadline) / 2)
    learner = learning(
        network.model,
        rounded,
        quantized,
        plan,
        teacher,
        network.samples.for_learning(network.inputs),
        rounding=config.learned_rounding,
        budget=LearningBudget(effort=config.effort, deadline=deadline),
        memory=config.memory,
        seed=config.seed,
    )
    with learner as ready, clock.stage("learn", ready.total) as advance:
        model, plan = ready.run(advance)
    return model, insert_quantizers(model, plan), plan, tuple(ready.records)


def _distilled(
    network: FloatNetwork,
    settings: DistillConfig,
    rounded: ir.Model,
    quantized: ir.Model,
    plan: QuantizationPlan,
    teacher: TorchGraph,
    clock: Clock,
) -> tuple[ir.Model, QuantizationPlan, DistillRecord]:
    """Train all of it together, from what everything before has left."""
    config = network.config
    ready = Distillation(
        network.model,
        rounded,
        quantized,
        plan,
        teacher,
        network.samples.for_learning(network.inputs),
        config=settings,
        budget=LearningBudget(effort=config.effort, deadline=clock.deadline(config.time_budget)),
        seed=config.seed,
        live=live_batches(network.samples, config, clock.progress),
    )
    with clock.stage("distill", ready.total) as advance:
        model, plan = ready.run(advance)
    assert ready.record is not None
    return insert_quantizers(model, plan), plan, ready.record
