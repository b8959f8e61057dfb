"""From a quantized network as the closed forms leave it to a learned one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch

from passes.plan import QuantizationPlan
from passes.qdq_names import QdqNames
from zsq_compile.config.compile import LearnedRounding
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.bias.bias_correction import real_biases
from zsq_compile.quantization.closed_form import insert_quantizers, write_initializers
from zsq_compile.quantization.reconstruction.activation_cache import ActivationCache
from zsq_compile.quantization.reconstruction.budget import LearningBudget
from zsq_compile.quantization.reconstruction.reconstruct import BlockRecord, Reconstruction
from zsq_compile.quantization.reconstruction.samples import Samples
from zsq_compile.quantization.reconstruction.values import QuantizedValues, starting_values, written


def is_learnable(plan: QuantizationPlan) -> bool:
    """Whether anything has fewer than 8 bits; from 8 on the closed forms leave nothing to gain."""
    formats = [*(site.number_format for site in plan.weights), *(site.number_format for site in plan.activations)]
    return any(number_format.bits < 8 for number_format in formats)


def learnable_start(rounded: ir.Model, quantized: ir.Model, plan: QuantizationPlan) -> tuple[ir.Model, QuantizedValues]:
    """Read off a quantized network what learning starts from.

    Args:
        rounded: the float model with weights on the grids of the plan.
        quantized: the QDQ model of it and the plan, biases corrected.
        plan: with all its scales.

    Returns:
        ``rounded`` with the corrected biases of those layers whose inputs stay float, and the values of all others.

    """
    corrected = TorchGraph(quantized)
    start = starting_values(plan, TorchGraph(rounded).initializers, real_biases(plan, corrected))
    base = rounded.clone()
    floats = [str(site.bias) for site in plan.weights if site.bias in corrected.initializers]  # of float inputs
    write_initializers(base, {name: corrected.initializers[name] for name in floats})
    return base, start


class Learning:
    """All that is needed to learn one network, and what came of it.

    Attributes:
        total: optimiser steps that are planned; None where the clock decides.
        records: what became of each block.

    """

    def __init__(self, model: ir.Model, plan: QuantizationPlan, reconstruction: Reconstruction) -> None:
        self._model, self._plan, self._reconstruction = model, plan, reconstruction
        self.total = reconstruction.total
        self.records: list[BlockRecord] = reconstruction.records

    def run(self, advance: Callable[[int], None]) -> tuple[ir.Model, QuantizationPlan]:
        """Learn; returns the float model with weights on the grids of the returned plan, and that plan."""
        return written(self._model, self._plan, self._reconstruction.run(advance))


@contextmanager
def learning(
    model: ir.Model,
    rounded: ir.Model,
    quantized: ir.Model,
    plan: QuantizationPlan,
    teacher: TorchGraph,
    samples: Samples,
    *,
    rounding: LearnedRounding,
    budget: LearningBudget,
    memory: int,
    seed: int,
) -> Iterator[Learning]:
    """Make all ready to learn, and clean up behind it.

    Args:
        model: the float model; ``teacher`` runs it.
        rounded: the same with weights on the grids of the plan.
        quantized: the QDQ model of both, biases corrected.
        plan: with all its scales.
        teacher: the float graph.
        samples: calibration data.
        rounding: how codes are learned.
        budget: how long.
        memory: bytes of activations to hold in memory.
        seed: start of all randomness.

    """
    base, start = learnable_start(rounded, quantized, plan)
    inserted = insert_quantizers(base, plan, final=False)
    names = QdqNames(inserted)
    behind_grid = {site.value: names.behind_grid(site) for site in plan.activations}
    rng = torch.Generator().manual_seed(seed)
    with ActivationCache(memory) as cache:
        reconstruction = Reconstruction(
            model,
            plan,
            TorchGraph(inserted, device=teacher.device),
            teacher,
            samples,
            cache,
            start.to(teacher.device),
            behind_grid,
            rounding=rounding,
            budget=budget,
            rng=rng,
        )
        yield Learning(base, plan, reconstruction)
