"""The ``noise`` generator: random numbers in the input range, the baseline that every other has to beat."""

import torch

from zsq_compile.config.generators import NoiseConfig
from zsq_compile.synthesis.generator import Synthesized
from zsq_compile.synthesis.images.procedural import draw_samples
from zsq_compile.synthesis.task import SynthesisTask


def draw_noise(config: NoiseConfig, task: SynthesisTask, count: int, rng: torch.Generator) -> Synthesized:
    """Draw independent numbers.

    ``normal`` draws pixels around the middle of their range with a quarter of it as standard deviation, ``uniform``
    evenly. Other inputs get standard normal numbers, or uniform ones in [-1, 1]; ids and the like get stand-ins.
    """
    normal = config.distribution == "normal"
    samples = {}
    for spec in task.inputs:
        if spec.takes_stand_ins:
            samples[spec.name] = draw_samples(spec, count, rng)
            continue
        shape = spec.pictures(count) if spec.is_image else spec.batched(count)
        if normal:
            values = torch.randn(shape, generator=rng, device=rng.device)
        else:
            values = 2.0 * torch.rand(shape, generator=rng, device=rng.device) - 1.0
        if spec.is_image:
            values = (0.5 + 0.25 * values).clamp(0.0, 1.0) if normal else 0.5 + 0.5 * values
        samples[spec.name] = values
    return Synthesized(samples=samples)
