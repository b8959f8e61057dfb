"""From Gaussian noise to images by Adam, batch by batch: what zeroq, dsg and intraq have in common.

They differ in the loss. Departures from the papers, the same for all: pixels are kept in [0, 1], because no camera
gives others, and the learning rate decays by a cosine to a tenth over the iterations there are, because waiting for
plateaus needs hundreds of them.
"""

from collections.abc import Callable, Mapping, Sequence
from math import cos, pi
from typing import TypeAlias

import torch
from torch import Tensor

from zsq_compile.config.generators import DsgConfig, IntraqConfig, ZeroqConfig
from zsq_compile.data.preprocessing import imagenet_preprocessing
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.errors import SynthesisError
from zsq_compile.synthesis.budget import Budget
from zsq_compile.synthesis.generator import Synthesized
from zsq_compile.synthesis.images.procedural import draw_samples
from zsq_compile.synthesis.task import SynthesisTask, Tensors

Loss: TypeAlias = Callable[[Tensors, range], Tensor]
"""(samples of one batch, their numbers in the set) -> loss."""
MakeLoss: TypeAlias = Callable[[SynthesisTask, Tensors, torch.Generator], Loss]
"""(task, noise of the whole set, rng) -> the loss that the set is optimised by."""

_PIXEL_DEVIATION = 0.225


def descend_from_noise(
    config: ZeroqConfig | DsgConfig | IntraqConfig,
    make_loss: MakeLoss,
    task: SynthesisTask,
    count: int,
    rng: torch.Generator,
) -> Synthesized:
    """Optimise noise by a loss.

    Raises:
        SynthesisError: there is no usable BatchNormalization, the network is too large for the effort, or it is not
            what the loss needs.

    """
    task.require_layers()
    samples = draw_normalised(task, task.round_up(count), rng)
    budget = task.plan_budget(samples, config.iterations, config.batch_size)
    if budget.iterations == 0:
        raise SynthesisError(
            f"optimising noise by {task.name} would take too long for this network at the effort {task.effort}: take "
            "fewer --samples or a higher --effort, or give iterations under [generator] in a configuration file"
        )
    rates = {name: config.learning_rate * (_PIXEL_DEVIATION if name in task.pictures else 1.0) for name in samples}
    samples, curve = _descend(task, samples, make_loss(task, samples, rng), rates, budget)
    return Synthesized(samples=samples, loss_curve=curve)


def draw_normalised(task: SynthesisTask, count: int, rng: torch.Generator) -> Tensors:
    """Draw standard normal numbers: as normalised pixels, which become pixels clamped to [0, 1], or as they are.

    Ids and the like get stand-ins.
    """
    samples = {}
    for spec in task.inputs:
        if spec.takes_stand_ins:
            samples[spec.name] = draw_samples(spec, count, rng).to(task.teacher.device)
            continue
        shape = spec.pictures(count) if spec.is_image else spec.batched(count)
        values = torch.randn(shape, generator=rng, device=rng.device).to(task.teacher.device)
        samples[spec.name] = imagenet_preprocessing(spec.channels).decode(values) if spec.is_image else values
    task.clamp_pixels(samples)
    return samples


def run_teacher(task: SynthesisTask, samples: Mapping[str, Tensor], outputs: Sequence[str]) -> Tensors:
    """Compute named values from samples, in reduced precision."""
    with reduced_precision(task.teacher.device):
        return task.teacher.run(task.encode(samples), tuple(dict.fromkeys(outputs)))


def _descend(
    task: SynthesisTask, samples: Tensors, loss: Loss, rates: Mapping[str, float], budget: Budget
) -> tuple[Tensors, list[float]]:
    """Optimise each batch by itself; returns the samples and the mean loss over batches before each step."""
    count = len(next(iter(samples.values())))
    starts = range(0, count, budget.batch_size)
    batches, totals = [], [0.0] * budget.iterations
    with task.progress.stage("synthesis", budget.iterations * len(starts)) as advance:
        for start in starts:
            stop = min(start + budget.batch_size, count)
            batch = {name: x[start:stop].clone().requires_grad_(name in task.free) for name, x in samples.items()}
            free = {name: value for name, value in batch.items() if value.requires_grad}
            optimizer = torch.optim.Adam([{"params": [value], "lr": rates[name]} for name, value in free.items()])
            decay = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda done: 0.55 + 0.45 * cos(pi * done / budget.iterations)
            )
            for iteration in range(budget.iterations):
                value = loss(batch, range(start, stop))
                leaves = list(free.values())
                for leaf, gradient in zip(leaves, torch.autograd.grad(value, leaves, allow_unused=True), strict=True):
                    leaf.grad = gradient
                optimizer.step()
                decay.step()
                task.clamp_pixels(batch)
                totals[iteration] += float(value.detach())
                advance(1)
            batches.append({name: value.detach() for name, value in batch.items()})
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in samples}
    return joined, [total / len(starts) for total in totals]
