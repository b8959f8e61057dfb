"""The ``prior`` generator: procedural data as it is, needing no statistics; the start of ``pixels``."""

import torch

from zsq_compile.synthesis.generator import Synthesized
from zsq_compile.synthesis.images.procedural import draw_samples
from zsq_compile.synthesis.task import SynthesisTask, Tensors


def draw_prior(task: SynthesisTask, count: int, rng: torch.Generator) -> Synthesized:
    """Draw the families of pictures that suit for image inputs, and signals or stand-ins for all others."""
    return Synthesized(samples=draw_start(task, count, rng))


def draw_start(task: SynthesisTask, count: int, rng: torch.Generator) -> Tensors:
    """``count`` samples of every input by name, on the device of ``rng``."""
    return {
        spec.name: draw_samples(spec, count, rng, task.preprocessing.get(spec.name), task.shares(spec.name))
        for spec in task.inputs
    }
