"""The ``genie`` generator: pictures made by a network, learned against the BatchNormalization statistics.

Genie-D of Jeon, Lee, Kim (CVPR 2023): a fresh generator network and one latent vector per picture are learned together
for each batch, while the strided convolutions of the teacher swing. The loss is, summed over layers, the mean over
channels of the squared differences of mean and of deviation, and the distance of every single normalised picture from
mean 0 and deviation 1. What counts are the pictures of the last forward pass.

Ours beside the paper: the generator is sized to the picture and to the teacher's work (generator_network.py); what it
makes becomes pixels by a mean and a contrast per channel that start at those of natural pictures and are learned along,
as not every network takes pictures normalised to mean 0; pixels are cut to [0, 1] in every step, so that the pictures
that are returned are those that were optimised; and the teacher may take a batch in pieces, whose moments are joined.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from passes.batchnorm.harvest_batchnorm import BatchNorm, BatchNormStatistics
from zsq_compile.config.compile import Effort
from zsq_compile.config.genie import GenieConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.errors import SynthesisError
from zsq_compile.progress import Progress
from zsq_compile.synthesis.budget import NETWORKS, Budget, plan_budget
from zsq_compile.synthesis.feeding import Feeding, required_layers
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.generators.generator_network import GeneratorNetwork, NetworkPlan
from zsq_compile.synthesis.generators.picture_networks import (
    PixelScale,
    plan_networks,
    require_pictures,
    tell_cut,
    with_networks,
)
from zsq_compile.synthesis.images.procedural import check_inputs
from zsq_compile.synthesis.losses import Moments, joined, moment_difference
from zsq_compile.synthesis.micro_batches import in_pieces
from zsq_compile.synthesis.preprocessing.find import find_preprocessing
from zsq_compile.synthesis.probe import Cost, laid_out, layer_inputs, layer_moments, layer_targets, measure_cost
from zsq_compile.synthesis.swing import Swing, swing

_LARGEST_BATCH = 128
_SMALLEST_BATCH = 16  # below it, moments of a batch are too uncertain to normalise by
_RATE_AT_END = 0.95**40  # 0.95 after each of 40 parts of the work
_PATIENCE = 1 / 40  # of the work
_FACTOR, _LOWEST_RATE = 0.1, 1e-4  # of the latent vectors' rate


class GenieGenerator:
    """Pictures of generator networks, each learned for one batch."""

    def __init__(
        self,
        config: GenieConfig,
        inputs: Sequence[InputSpec],
        contract: Preprocessing | None,
        progress: Progress,
        *,
        effort: Effort,
    ) -> None:
        self._config = config
        self._inputs = require_pictures(check_inputs(inputs), "genie")
        self._contract = contract
        self._progress = progress
        self._effort = effort

    def synthesize(
        self, teacher: TorchGraph, statistics: BatchNormStatistics, count: int, rng: torch.Generator
    ) -> SyntheticSet:
        """See Generator.synthesize.

        Raises:
            SynthesisError: there is no usable BatchNormalization, or the network is too large for the effort.

        """
        seed = rng.initial_seed()
        layers = required_layers(statistics, "genie")
        contracts = find_preprocessing(self._inputs, self._contract, teacher, statistics, rng, self._progress)
        work = self._plan(Feeding(self._inputs, contracts, layers, teacher), count)
        made: list[dict[str, Tensor]] = []
        curves: list[list[float]] = []
        with self._progress.stage("synthesis", work.iterations * work.batches) as advance:
            for _ in range(work.batches):
                pictures, curve = _learn_batch(work, self._config, rng, advance)
                made.append(pictures)
                curves.append(curve)
        tell_cut({name: [part[name] for part in made] for name in contracts}, "genie", self._progress)
        inputs = {
            name: contract.encode(torch.cat([part[name] for part in made])[:count].clamp(0.0, 1.0)).float().cpu()
            for name, contract in contracts.items()
        }
        curve = [sum(losses) / len(losses) for losses in zip(*curves, strict=True)]
        return SyntheticSet(inputs=inputs, algorithm="genie", seed=seed, loss_curve=tuple(curve), contracts=contracts)

    def _plan(self, feeding: Feeding, count: int) -> "_Work":
        teacher = feeding.teacher
        moving = swing(teacher) if self._config.swing else Swing(teacher=teacher, axes={}, refusals=())
        for refusal in moving.refusals:
            self._progress.note(f"{refusal.op_type} {refusal.where!r} does not swing: {refusal.reason}")
        cost = measure_cost(teacher, feeding.blank(), layer_inputs(feeding.layers))
        plans = plan_networks(self._inputs, self._config.latent_size, cost)
        largest = self._config.batch_size or _LARGEST_BATCH
        batches = -(-count // largest)
        size = feeding.rounded(max(-(-count // batches), min(_SMALLEST_BATCH, largest)))
        budget = self._budget(size * batches, with_networks(cost, plans))
        return _Work(
            layers=feeding.layers,
            contracts=feeding.contracts,
            swing=moving,
            plans=plans,
            iterations=budget.iterations,
            batches=batches,
            size=size,
            piece=feeding.fixed_batch or -(-size // -(-size // budget.batch_size)),
        )

    def _budget(self, count: int, cost: Cost) -> Budget:
        """Plan the iterations, and how many samples the teacher takes at once.

        Raises:
            SynthesisError: too few iterations can be had at this effort for pictures to come out.

        """
        budget = plan_budget(count, self._effort, cost, iterations=self._config.iterations, allowance=NETWORKS)
        if budget.iterations == 0:
            raise SynthesisError(
                f"genie starts from nothing and needs {NETWORKS.fewest} iterations at least, more than the effort "
                f"{self._effort!r} has time for with {count} samples of this network: use --generator pixels, a higher "
                "--effort, fewer --samples, or set generator.iterations"
            )
        return budget


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Work:
    """What is the same for all batches: ``batches`` of ``size`` samples, which the teacher takes by ``piece``."""

    layers: Sequence[BatchNorm]
    contracts: Mapping[str, Preprocessing]
    swing: Swing
    plans: Mapping[str, NetworkPlan]
    iterations: int
    batches: int
    size: int
    piece: int

    @property
    def device(self) -> torch.device:
        return self.swing.teacher.device


class _Painter(nn.Module):
    """The generator of one input with the latent vectors of a batch, and what makes pixels of its pictures."""

    def __init__(self, plan: NetworkPlan, size: int, rng: torch.Generator) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(size, plan.latent, generator=rng, device=rng.device))
        self.network = GeneratorNetwork(plan, rng)
        self.scale = PixelScale(plan.channels[-1])

    def forward(self) -> tuple[Tensor, Tensor]:
        """Pictures (N, C, H, W) as the network makes them, normalised, and as pixels, not cut yet."""
        normalised = self.network(self.latents)
        return normalised, self.scale(normalised)

    def learned(self) -> list[nn.Parameter]:
        """All but the latent vectors."""
        return [*self.network.parameters(), *self.scale.parameters()]


def _learn_batch(
    work: _Work, config: GenieConfig, rng: torch.Generator, advance: Callable[[int], None]
) -> tuple[dict[str, Tensor], list[float]]:
    """Learn generators and latent vectors of one batch; returns its pixels, not cut yet, and the loss per iteration."""
    painters = {name: _Painter(plan, work.size, rng).to(work.device) for name, plan in work.plans.items()}
    targets = layer_targets(work.layers, work.device)
    latents = torch.optim.Adam([one.latents for one in painters.values()], lr=config.latent_learning_rate)
    weights = torch.optim.Adam(
        [parameter for one in painters.values() for parameter in one.learned()], lr=config.generator_learning_rate
    )
    patience = max(10, round(_PATIENCE * work.iterations))
    waiting = ReduceLROnPlateau(latents, factor=_FACTOR, patience=patience, min_lr=_LOWEST_RATE)
    slowing = ExponentialLR(weights, gamma=_RATE_AT_END ** (1.0 / work.iterations))
    pixels: dict[str, Tensor] = {}
    curve: list[float] = []
    for iteration in range(work.iterations):
        last = iteration + 1 == work.iterations  # its pictures are the result, and nothing is learned from them
        with torch.set_grad_enabled(not last):
            pixels, own = _paint(painters, work.device)
            measured = _measure(work, pixels, rng)
            pairs = zip(measured, targets, strict=True)
            loss = torch.stack([moment_difference(one, other).mean() for one, other in pairs]).sum()
            loss = loss + config.image_weight * own
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


def _paint(painters: Mapping[str, _Painter], device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Pixels of every input, and how far single normalised pictures are from mean 0 and deviation 1."""
    pixels: dict[str, Tensor] = {}
    own = torch.zeros((), device=device)
    for name, painter in painters.items():
        with reduced_precision(device):
            normalised, pixels[name] = painter()
        variance, mean = torch.var_mean(normalised, dim=(2, 3), correction=0)
        own = own + (mean.square() + ((variance + 1e-6).sqrt() - 1.0).square()).sum(1).mean()
    return pixels, own


def _measure(work: _Work, pixels: Mapping[str, Tensor], rng: torch.Generator) -> list[Moments]:
    """Moments of the layers' inputs over the batch; all pieces of it see the same offsets."""
    offsets = work.swing.draw(rng)
    feeds = laid_out({name: contract.encode(pixels[name].clamp(0.0, 1.0)) for name, contract in work.contracts.items()})

    def measured(start: int, stop: int) -> list[Moments]:
        with reduced_precision(work.device):
            values = work.swing.teacher.run(
                {name: value[start:stop] for name, value in feeds.items()}, layer_inputs(work.layers), replace=offsets
            )
        return layer_moments(work.layers, values)

    parts, sizes = in_pieces(measured, work.size, work.piece)
    if len(parts) == 1:
        return parts[0]
    return [joined([part[index] for part in parts], sizes) for index in range(len(work.layers))]
