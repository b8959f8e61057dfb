"""A quantized network before there is any data: what a generator can learn against until the real student is there."""

from dataclasses import replace

import onnx_ir as ir
import torch

from passes.harvest_batchnorm import BatchNormStatistics
from passes.plan import QuantizationPlan
from zsq_compile.calibration_data import feeds, fixed_batch
from zsq_compile.config import QuantizationConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.loading import LoadedModel
from zsq_compile.progress import Silent
from zsq_compile.quantization.quantize import calibrated_plan, correct_biases, insert_quantizers, rounded_model
from zsq_compile.synthesis.generator import InputContract
from zsq_compile.synthesis.procedural import PriorGenerator

_SAMPLES = 64


def provisional_student(
    loaded: LoadedModel,
    folded: ir.Model,
    plan: QuantizationPlan,
    statistics: BatchNormStatistics,
    contract: InputContract | None,
    config: QuantizationConfig,
    *,
    seed: int,
    device: torch.device,
) -> TorchGraph:
    """Quantize a network by what needs no data of its own: nearest rounding, and ranges from procedural images.

    Biases are corrected as ``config`` says.

    Args:
        loaded: the float model with its BatchNormalizations, which tell what numbers the network takes, and its inputs.
        folded: the same without them; what is quantized.
        plan: without scales.
        statistics: of the BatchNormalizations.
        contract: what numbers the network takes, where that is given.
        config: how ranges and scales are chosen.
        seed: of the images.
        device: where the network is to run.

    """
    inputs = loaded.inputs
    rng = torch.Generator().manual_seed(seed)
    count = max(_SAMPLES // (fixed_batch(inputs) or 1), 1) * (fixed_batch(inputs) or 1)
    images = PriorGenerator(inputs, contract, Silent()).synthesize(TorchGraph(loaded.model), statistics, count, rng)
    teacher, batches = TorchGraph(folded), feeds(images.inputs, inputs)
    settings = replace(config, rounding="nearest")
    plan = calibrated_plan(plan, teacher, batches, settings)
    rounded, plan = rounded_model(folded, plan, teacher, batches, settings)
    quantized = insert_quantizers(rounded, plan)
    correct_biases(folded, quantized, plan, teacher, statistics, batches, settings)
    return TorchGraph(quantized, device=device)
