"""A quantized network before there is any data: what a generator can learn against until the real student is there."""

import torch

from backends.target import Target
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.config.generators import PriorConfig
from zsq_compile.data.input_spec import fixed_batch
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Clock, Silent
from zsq_compile.quantization.closed_form import Calibrate, CorrectBiases, Round
from zsq_compile.quantization.planning import plan_quantization
from zsq_compile.quantization.samples import Samples
from zsq_compile.quantization.state import FloatNetwork
from zsq_compile.stages.quantize import fold_network, is_wide, run_steps
from zsq_compile.synthesis.make_generator import make_generator

_SAMPLES = 64


def make_provisional_student(
    loaded: LoadedModel,
    statistics: BatchNormStatistics,
    target: Target,
    config: QuantizationConfig,
    seed: int,
    device: torch.device,
    preprocessing: Preprocessing | None,
) -> TorchGraph:
    """Quantize a network by what needs no data of its own: nearest rounding, and ranges from procedural images.

    ``device`` is where the student runs; ``preprocessing`` None lets that of the image inputs be inferred.
    """
    fixed, rng = fixed_batch(loaded.inputs), torch.Generator().manual_seed(seed)
    count = max(_SAMPLES // (fixed or 1), 1) * (fixed or 1)
    generator = make_generator(PriorConfig(), loaded.inputs, preprocessing)
    images = generator.synthesize(TorchGraph(loaded.model), statistics, count, rng)
    wide = is_wide(config, mixed=False, given=None)
    model, statistics = fold_network(loaded.model, statistics, equalize=config.equalize, merge=wide, target=target)
    samples = Samples(inputs=images.inputs, fixed=fixed)
    network = FloatNetwork(
        teacher=TorchGraph(model), target=target, statistics=statistics, calibration=samples, held_out=samples
    )
    steps = (Calibrate(config=config), Round(method="nearest"), CorrectBiases(form=config.bias_correction))
    states, _ = run_steps(network, plan_quantization(model, target, config), steps, Clock(Silent()))
    return TorchGraph(states[CorrectBiases.name].qdq, device=device)
