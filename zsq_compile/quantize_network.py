"""The middle of the sentence: from a float network and calibration data to the QDQ network, closed forms first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from backends.target import Target
from passes.harvest_batchnorm import BatchNormStatistics
from passes.plan import QuantizationPlan
from zsq_compile.calibration_data import CalibrationData
from zsq_compile.clock import Clock
from zsq_compile.config import CompileConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.layer_quality import LayerQuality
from zsq_compile.quantization.layer_noise import layer_qualities
from zsq_compile.quantization.learning import is_learnable, learning
from zsq_compile.quantization.learning_budget import LearningBudget
from zsq_compile.quantization.quantize import calibrated_plan, correct_biases, insert_quantizers, rounded_model
from zsq_compile.quantization.reconstruct import BlockRecord
from zsq_compile.signature import InputSpec


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizedNetwork:
    """A network with its quantizers.

    Attributes:
        model: the QDQ model, weights not packed yet.
        plan: with all scales.
        blocks: what became of each block that was learned; empty where nothing was.
        layers: what each layer lost, after each step of quantization.

    """

    model: ir.Model
    plan: QuantizationPlan
    blocks: tuple[BlockRecord, ...]
    layers: tuple[LayerQuality, ...]


def quantize_network(
    model: ir.Model,
    plan: QuantizationPlan,
    target: Target,
    statistics: BatchNormStatistics,
    samples: CalibrationData,
    inputs: Sequence[InputSpec],
    config: CompileConfig,
    clock: Clock,
) -> QuantizedNetwork:
    """Quantize a float network as a plan says.

    Args:
        model: folded, with a bias in every layer that can have one.
        plan: without scales.
        target: that the plan was made for.
        statistics: BatchNormalization statistics of the model before it was folded, possibly none.
        samples: calibration data.
        inputs: of the network.
        config: everything that can be decided.
        clock: times and shows the stages.

    """
    teacher, batches, chosen = TorchGraph(model), samples.batches(inputs), config.quantization
    with clock.stage("calibrate", 2 * len(batches)) as advance:
        plan = calibrated_plan(plan, teacher, batches, chosen, advance)
        steps = {"scales": insert_quantizers(model, plan)}
    with clock.stage("round", len(batches)) as advance:
        rounded, plan = rounded_model(model, plan, teacher, batches, chosen, advance)
    with clock.stage("quantize"):
        quantized = insert_quantizers(rounded, plan)
        steps["round"] = quantized.clone()
        # the statistics are those of the channels as they were before they were equalized
        known = replace(statistics, entries=()) if chosen.equalize else statistics
        correct_biases(model, quantized, plan, teacher, known, samples.joined(inputs, model), chosen)
        steps["biases"] = quantized
    blocks: tuple[BlockRecord, ...] = ()
    if config.learned_rounding is not None and is_learnable(plan):
        learner = learning(
            model,
            rounded,
            quantized,
            plan,
            teacher,
            samples.for_learning(inputs),
            rounding=config.learned_rounding,
            budget=LearningBudget(effort=config.effort, deadline=clock.deadline(config.time_budget)),
            memory=config.memory,
            seed=config.seed,
        )
        with learner as ready, clock.stage("learn", ready.total) as advance:
            rounded, plan = ready.run(advance)
        quantized, blocks = insert_quantizers(rounded, plan), tuple(ready.records)
        steps["learn"] = quantized
    with clock.stage("measure"):
        layers = layer_qualities(model, plan, target, teacher, steps, samples.judging(inputs, model))
    return QuantizedNetwork(model=quantized, plan=plan, blocks=blocks, layers=layers)
