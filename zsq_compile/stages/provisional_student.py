"""A quantized network before there is any data: what a generator can learn against until the real student is there."""

from dataclasses import replace

import torch

from backends.target import Target
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.quantize.prepare_float import folded
from zsq_compile.config.compile import CompileConfig
from zsq_compile.data.input_spec import fixed_batch
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Silent
from zsq_compile.quantization.closed_form import calibrated_plan, correct_biases, insert_quantizers, rounded_model
from zsq_compile.quantization.planning import planned
from zsq_compile.stages.calibration_data import feeds
from zsq_compile.synthesis.generators.prior import PriorGenerator

_SAMPLES = 64


def provisional_student(
    loaded: LoadedModel,
    statistics: BatchNormStatistics,
    target: Target,
    config: CompileConfig,
    device: torch.device,
    contract: Preprocessing | None,
) -> TorchGraph:
    """Quantize a network by what needs no data of its own: nearest rounding, and ranges from procedural images.

    Biases are corrected as ``config`` says.

    Args:
        loaded: the float model with its BatchNormalizations, which tell what numbers the network takes, and its inputs.
        statistics: of the BatchNormalizations.
        target: where it will run.
        config: widths, how ranges and scales are chosen, and the seed of the images.
        device: where the network is to run.
        contract: what numbers the network takes, where that is given.

    """
    inputs = loaded.inputs
    rng = torch.Generator().manual_seed(config.seed)
    feed = fixed_batch(inputs) or 1
    count = max(_SAMPLES // feed, 1) * feed
    images = PriorGenerator(inputs, contract, Silent()).synthesize(TorchGraph(loaded.model), statistics, count, rng)
    model = folded(loaded.model, statistics, config.quantization.equalize)
    teacher, batches = TorchGraph(model), feeds(images.inputs, inputs)
    settings = replace(config.quantization, rounding="nearest")
    plan = calibrated_plan(planned(model, target, config), teacher, batches, settings)
    rounded, plan = rounded_model(model, plan, teacher, batches, settings)
    quantized = insert_quantizers(rounded, plan)
    if config.quantization.equalize:  # those of a model whose channels were equalized hold no longer
        statistics = replace(statistics, entries=())
    correct_biases(model, quantized, plan, teacher, statistics, batches, settings)
    return TorchGraph(quantized, device=device)
