"""A conditional generator and the fixed network that it learns against, one step at a time.

    labels y, latents z -> networks -> pixels, clamped to [0, 1] -> inputs x -> teacher -> scores, moments of BN inputs
    loss = class_weight * cross-entropy(scores, y) + bn_weight * distance(moments, what BN remembers)
           + extra(x, scores, y)

The teacher takes a batch in micro-batches where it has to; moments are those of the whole batch. Adam has the betas of
GDFQ, (0.5, 0.999).
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from zsq_compile.config.conditional_generators import ConditionalConfig
from zsq_compile.differentiable.class_scores import class_logits
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.synthesis.balanced_labels import BalancedLabels
from zsq_compile.synthesis.budget import plan_budget
from zsq_compile.synthesis.channel_moments import ActivationMoments, join_moments
from zsq_compile.synthesis.generators.baseline_losses import channel_divergence, moment_errors
from zsq_compile.synthesis.generators.conditional_network import ConditionalGeneratorNetwork
from zsq_compile.synthesis.generators.image_networks import add_networks, plan_networks
from zsq_compile.synthesis.losses import class_loss
from zsq_compile.synthesis.micro_batches import run_micro_batches
from zsq_compile.synthesis.probe import Cost, layer_inputs, layer_moments, layer_targets, measure_cost, to_channels_last
from zsq_compile.synthesis.task import SynthesisTask

_BETAS = (0.5, 0.999)
_DISTANCES = {"kl": channel_divergence, "moments": moment_errors}


ExtraLoss: TypeAlias = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""(network inputs by name, the teacher's class scores, asked classes) -> one more term of the generator's loss."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GeneratedBatch:
    """Samples of one training step, as they were before it; no gradient.

    Attributes:
        inputs: (N, ...) network inputs by name, on the teacher's device.
        labels: (N,) class that each sample was to show.
        scores: (N, classes) what the teacher makes of them, as the network returns it.
        loss: the whole loss.
        class_loss: cross-entropy of the teacher's classes against the labels, not weighted.
        bn_loss: distance from the BatchNormalization statistics, not weighted.

    """

    inputs: Mapping[str, Tensor]
    labels: Tensor
    scores: Tensor
    loss: float
    class_loss: float
    bn_loss: float


class ConditionalTrainer:
    """A conditional generator with the teacher that it learns against.

    Attributes:
        config: weights of the losses, sizes and rates.
        task: with the teacher, its inputs, and the layers whose statistics are matched.
        teacher: the network it learns against.
        scores: name of the teacher's output with class scores.
        classes: their number.
        cost: of one sample, the generator's part included.

    All inputs are images (``require_images``). Weights start from ``rng``, and live on the teacher's device.

    """

    def __init__(
        self,
        config: ConditionalConfig,
        task: SynthesisTask,
        scores: str,
        classes: int,
        rng: torch.Generator,
    ) -> None:
        self.config = config
        self.task = task
        self.teacher = task.teacher
        self.scores = scores
        self.classes = classes
        self._outputs = tuple(dict.fromkeys((*layer_inputs(task.layers), scores)))
        self._teacher_cost = measure_cost(task.teacher, task.zeros(), self._outputs)
        plans = plan_networks(task.inputs, config.latent_size, self._teacher_cost)
        self.cost: Cost = add_networks(self._teacher_cost, plans)
        embedded = classes <= config.embedded_classes
        networks = [
            ConditionalGeneratorNetwork(plans[spec.name], classes, rng, embedded=embedded) for spec in task.inputs
        ]
        self._networks = nn.ModuleList(networks).to(task.teacher.device)
        self._names = tuple(spec.name for spec in task.inputs)
        self._optimizer = torch.optim.Adam(self._networks.parameters(), lr=config.learning_rate, betas=_BETAS)
        self._targets = layer_targets(task.layers, task.teacher.device)
        self._labels = BalancedLabels(classes)

    def generate(self, labels: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Make pixels by input, one image for each of the (N,) labels, at least 2; not clamped to [0, 1]."""
        device, size = self.teacher.device, (len(labels), self.config.latent_size)
        pixels = {}
        for name, network in zip(self._names, self._networks, strict=True):
            latents = torch.randn(size, generator=rng, device=rng.device).to(device)
            with reduced_precision(device):
                pixels[name] = network(latents, labels.to(device))
        return pixels

    def draw(self, labels: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Make network inputs, one sample for each of the (N,) labels, at least 2.

        Differentiable to the generator's weights. Samples are normalised by the moments of all that are drawn together:
        they come out as learned where classes are mixed as in training.
        """
        pixels = {name: value.clamp(0.0, 1.0) for name, value in self.generate(labels, rng).items()}
        return to_channels_last(self.task.encode(pixels))

    def step(self, count: int, rng: torch.Generator, extra: ExtraLoss | None = None) -> GeneratedBatch:
        """Take one training step, on ``count`` samples or as many more as fill the network's fixed batch.

        Over successive steps each class is asked for as often as any other.
        """
        labels = self._labels.draw(self.task.round_up(count), rng).to(self.teacher.device)
        inputs = self.draw(labels, rng)
        measured, scores = self._measure(inputs, len(labels))
        class_term = class_loss(class_logits(scores), labels)
        bn_term = _DISTANCES[self.config.distance](measured, self._targets)
        loss = self.config.class_weight * class_term + self.config.bn_weight * bn_term
        if extra is not None:
            loss = loss + extra(inputs, scores, labels)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return GeneratedBatch(
            inputs={name: value.detach() for name, value in inputs.items()},
            labels=labels,
            scores=scores.detach(),
            loss=float(loss.detach()),
            class_loss=float(class_term.detach()),
            bn_loss=float(bn_term.detach()),
        )

    def micro_batch_size(self, count: int) -> int:
        """How many of ``count`` samples the networks take at a time: their fixed batch, or what fits into memory.

        The generator takes its memory in any case, so only the teacher is counted.
        """
        fitting = plan_budget(count, "balanced", self._teacher_cost, iterations=1).batch_size
        return self.task.fixed_batch or fitting

    def state(self) -> dict[str, Any]:
        """Return a copy of weights, optimiser and next labels; ``torch.load`` reads it with ``weights_only``."""
        return {
            "weights": deepcopy(dict(self._networks.state_dict())),
            "optimizer": deepcopy(self._optimizer.state_dict()),
            "labels": self._labels.rest.clone(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of a trainer that was made with the same arguments.

        Raises:
            RuntimeError: the state is that of another network.

        """
        self._networks.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._labels.rest = state["labels"].cpu().clone()

    def _measure(self, inputs: Mapping[str, Tensor], count: int) -> tuple[list[ActivationMoments], Tensor]:
        """Moments of the layers' inputs over the batch, and the scores of its samples."""
        layers = self.task.layers

        def measure(start: int, stop: int) -> tuple[list[ActivationMoments], Tensor]:
            with reduced_precision(self.teacher.device):
                values = self.teacher.run({name: value[start:stop] for name, value in inputs.items()}, self._outputs)
            return layer_moments(layers, values), values[self.scores]

        parts, sizes = run_micro_batches(measure, count, self.micro_batch_size(count))
        moments = [join_moments([part[index] for part, _ in parts], sizes) for index in range(len(layers))]
        return moments, torch.cat([scores for _, scores in parts])
