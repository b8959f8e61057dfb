"""The ``genie`` generator: images made by networks that are learned against the BatchNormalization statistics.

Genie-D of Jeon, Lee, Kim (CVPR 2023): a fresh generator network and one latent vector per image are learned together
for each batch, while the strided convolutions of the teacher swing. The loss is, summed over layers, the mean over
channels of the squared differences of mean and of standard deviation, and the distance of every single normalised image
from mean 0 and deviation 1. The images of the last forward pass are the result.

Departures from the paper: the generator is sized to the image and to the teacher's work (generator_network.py); pixels
have a mean and a contrast per channel that start at those of natural images and are learned along, as not every network
takes images normalised to mean 0; pixels are clamped to [0, 1] in every step, so that the images returned are those
that were optimised; and the teacher may take a batch in micro-batches, whose moments are joined.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from zsq_compile.config.genie import GenieConfig
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.progress import Advance
from zsq_compile.synthesis.budget import NETWORKS, plan_budget
from zsq_compile.synthesis.channel_moments import ActivationMoments, join_moments
from zsq_compile.synthesis.generator import Synthesized
from zsq_compile.synthesis.generators.generator_network import GeneratorNetwork, NetworkPlan
from zsq_compile.synthesis.generators.image_networks import (
    PixelScale,
    add_networks,
    join_pixels,
    plan_networks,
    too_much_work,
)
from zsq_compile.synthesis.losses import moment_difference
from zsq_compile.synthesis.micro_batches import run_micro_batches
from zsq_compile.synthesis.probe import layer_inputs, layer_moments, layer_targets, measure_cost, to_channels_last
from zsq_compile.synthesis.swing import Swing, swing
from zsq_compile.synthesis.task import SynthesisTask, Tensors

_LARGEST_BATCH = 128
_SMALLEST_BATCH = 16  # below it, moments of a batch are too uncertain to normalise by
_RATE_AT_END = 0.95**40  # 0.95 after each of 40 parts of the work
_PATIENCE = 1 / 40  # of the work
_FACTOR, _LOWEST_RATE = 0.1, 1e-4  # of the latent vectors' rate


def learn_genie(config: GenieConfig, task: SynthesisTask, count: int, rng: torch.Generator) -> Synthesized:
    """Learn a generator network for every batch.

    Raises:
        SynthesisError: there is no usable BatchNormalization, or the network is too large for the effort.

    """
    task.require_layers()
    work = _plan(config, task, count)
    made: list[Tensors] = []
    curves: list[list[float]] = []
    with task.progress.stage("synthesis", work.iterations * work.batches) as advance:
        for _ in range(work.batches):
            pixels, curve = _learn_batch(work, config, rng, advance)
            made.append(pixels)
            curves.append(curve)
    curve = [sum(losses) / len(losses) for losses in zip(*curves, strict=True)]
    return Synthesized(samples=join_pixels(task, made), loss_curve=curve)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Work:
    """What is the same for all ``batches`` of ``size`` samples, which the teacher takes in micro-batches."""

    task: SynthesisTask
    swing: Swing
    plans: Mapping[str, NetworkPlan]
    iterations: int
    batches: int
    size: int
    micro_batch: int


def _plan(config: GenieConfig, task: SynthesisTask, count: int) -> _Work:
    teacher = task.teacher
    swinging = swing(teacher) if config.swing else Swing(teacher=teacher, axes={}, refusals=())
    for refusal in swinging.refusals:
        task.progress.note(f"{refusal.op_type} {refusal.where!r} does not swing: {refusal.reason}")
    cost = measure_cost(teacher, task.zeros(), layer_inputs(task.layers))
    plans = plan_networks(task.inputs, config.latent_size, cost)
    largest = config.batch_size or _LARGEST_BATCH
    batches = -(-count // largest)
    size = task.round_up(max(-(-count // batches), min(_SMALLEST_BATCH, largest)))
    total = size * batches
    budget = plan_budget(
        total, task.effort, add_networks(cost, plans), iterations=config.iterations, allowance=NETWORKS
    )
    if budget.iterations == 0:
        raise too_much_work(task, f"{total} samples", "fewer --samples")
    return _Work(
        task=task,
        swing=swinging,
        plans=plans,
        iterations=budget.iterations,
        batches=batches,
        size=size,
        micro_batch=task.fixed_batch or -(-size // -(-size // budget.batch_size)),
    )


class _BatchGenerator(nn.Module):
    """The generator network of one input, with the latent vectors of a batch and the scale of its pixels."""

    def __init__(self, plan: NetworkPlan, size: int, rng: torch.Generator) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(size, plan.latent, generator=rng, device=rng.device))
        self.network = GeneratorNetwork(plan, rng)
        self.scale = PixelScale(plan.channels[-1])

    def forward(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) as the network makes them, normalised, and as pixels, not clamped."""
        normalised = self.network(self.latents)
        return normalised, self.scale(normalised)

    def weights(self) -> list[nn.Parameter]:
        """All parameters but the latent vectors."""
        return [*self.network.parameters(), *self.scale.parameters()]


def _learn_batch(
    work: _Work, config: GenieConfig, rng: torch.Generator, advance: Advance
) -> tuple[Tensors, list[float]]:
    """Learn generators and latent vectors of one batch; returns its pixels, not clamped, and the loss per iteration."""
    device, layers = work.task.teacher.device, work.task.layers
    generators = {name: _BatchGenerator(plan, work.size, rng).to(device) for name, plan in work.plans.items()}
    targets = layer_targets(layers, device)
    latents = torch.optim.Adam([one.latents for one in generators.values()], lr=config.latent_learning_rate)
    weights = torch.optim.Adam(
        [parameter for one in generators.values() for parameter in one.weights()], lr=config.generator_learning_rate
    )
    patience = max(10, round(_PATIENCE * work.iterations))
    waiting = ReduceLROnPlateau(latents, factor=_FACTOR, patience=patience, min_lr=_LOWEST_RATE)
    slowing = ExponentialLR(weights, gamma=_RATE_AT_END ** (1.0 / work.iterations))
    pixels: Tensors = {}
    curve: list[float] = []
    for iteration in range(work.iterations):
        last = iteration + 1 == work.iterations  # its images are the result, and nothing is learned from them
        with torch.set_grad_enabled(not last):
            pixels, image_term = _generate(generators, device)
            measured = _measure(work, pixels, rng)
            pairs = zip(measured, targets, strict=True)
            loss = torch.stack([moment_difference(one, other).mean() for one, other in pairs]).sum()
            loss = loss + config.image_weight * image_term
        curve.append(float(loss.detach()))
        if not last:
            for optimizer in (latents, weights):
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in (latents, weights):
                optimizer.step()
            waiting.step(curve[-1])
            slowing.step()
        advance(1)
    return pixels, curve


def _generate(generators: Mapping[str, _BatchGenerator], device: torch.device) -> tuple[Tensors, Tensor]:
    """Pixels of every input, and how far single normalised images are from mean 0 and standard deviation 1."""
    pixels: Tensors = {}
    image_term = torch.zeros((), device=device)
    for name, generator in generators.items():
        with reduced_precision(device):
            normalised, pixels[name] = generator()
        variance, mean = torch.var_mean(normalised, dim=(2, 3), correction=0)
        image_term = image_term + (mean.square() + ((variance + 1e-6).sqrt() - 1.0).square()).sum(1).mean()
    return pixels, image_term


def _measure(work: _Work, pixels: Tensors, rng: torch.Generator) -> list[ActivationMoments]:
    """Moments of the layers' inputs over the batch; all of its micro-batches see the same offsets."""
    layers, teacher = work.task.layers, work.swing.teacher
    offsets = work.swing.draw(rng)
    feeds = to_channels_last(work.task.encode({name: values.clamp(0.0, 1.0) for name, values in pixels.items()}))

    def measure(start: int, stop: int) -> list[ActivationMoments]:
        part = {name: value[start:stop] for name, value in feeds.items()}
        with reduced_precision(teacher.device):
            values = teacher.run(part, layer_inputs(layers), replace=offsets)
        return layer_moments(layers, values)

    parts, sizes = run_micro_batches(measure, work.size, work.micro_batch)
    if len(parts) == 1:
        return parts[0]
    return [join_moments([part[index] for part in parts], sizes) for index in range(len(layers))]
