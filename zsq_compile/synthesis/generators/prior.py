"""The ``prior`` generator: procedural data as it is, needing no statistics; the start of ``pixels``."""

import torch

from zsq_compile.synthesis.generator import Synthesized
from zsq_compile.synthesis.images.procedural import draw_samples
from zsq_compile.synthesis.task import SynthesisTask


def draw_prior(task: SynthesisTask, count: int, rng: torch.Generator) -> Synthesized:
    """Draw dead leaves for image inputs, and noise for all others."""
    return Synthesized(
        samples={spec.name: draw_samples(spec, count, rng, task.preprocessing.get(spec.name)) for spec in task.inputs}
    )
