"""A conditional generator and the fixed network that it learns against, one step at a time.

    labels y, latents z -> networks -> pixels, cut to [0, 1] -> fed inputs x -> teacher -> scores, moments of BN inputs
    loss = class_weight * cross-entropy(scores, y) + bn_weight * distance(moments, what BN remembers)
           + extra(x, scores, y)

The teacher takes a batch in pieces where it has to; moments are those of the whole batch. Adam has the betas of GDFQ,
(0.5, 0.999).
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.config.conditional_generators import ConditionalConfig
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.class_scores import class_logits
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.precision import reduced_precision
from zsq_compile.synthesis.adversarial.source import Batch, Extra
from zsq_compile.synthesis.budget import plan_budget
from zsq_compile.synthesis.feeding import Feeding
from zsq_compile.synthesis.generators.baseline_losses import channel_divergence, moment_errors
from zsq_compile.synthesis.generators.conditional_network import ConditionalPainter
from zsq_compile.synthesis.generators.label_deck import LabelDeck
from zsq_compile.synthesis.generators.picture_networks import plan_networks, with_networks
from zsq_compile.synthesis.losses import Moments, class_loss, joined
from zsq_compile.synthesis.micro_batches import in_pieces
from zsq_compile.synthesis.probe import Cost, laid_out, layer_inputs, layer_moments, layer_targets, measure_cost

_BETAS = (0.5, 0.999)
_DISTANCES = {"kl": channel_divergence, "moments": moment_errors}


class ConditionalSource:
    """See Source.

    Attributes:
        config: weights of the losses, sizes and rates.
        contracts: what numbers the network expects, by input.
        layers: BatchNormalizations whose statistics are matched.
        teacher: the network it learns against.
        scores: name of the teacher's output with class scores.
        classes: their number.
        feeding: how the teacher takes samples.
        cost: of one sample, the generator's part included.

    All inputs are pictures (``require_pictures``). Weights start from ``rng``, and live on the teacher's device.

    """

    def __init__(
        self,
        config: ConditionalConfig,
        inputs: Sequence[InputSpec],
        contracts: Mapping[str, Preprocessing],
        layers: Sequence[BatchNorm],
        teacher: TorchGraph,
        scores: str,
        classes: int,
        rng: torch.Generator,
    ) -> None:
        self.config = config
        self.contracts = contracts
        self.layers = layers
        self.teacher = teacher
        self.scores = scores
        self.classes = classes
        self.feeding = Feeding(inputs, contracts, layers, teacher)
        self._outputs = tuple(dict.fromkeys((*layer_inputs(layers), scores)))
        self._teacher_cost = measure_cost(teacher, self.feeding.blank(), self._outputs)
        plans = plan_networks(inputs, config.latent_size, self._teacher_cost)
        self.cost: Cost = with_networks(self._teacher_cost, plans)
        embedded = classes <= config.embedded_classes
        painters = [ConditionalPainter(plans[spec.name], classes, rng, embedded=embedded) for spec in inputs]
        self._painters = nn.ModuleList(painters).to(teacher.device)
        self._names = tuple(spec.name for spec in inputs)
        self._optimizer = torch.optim.Adam(self._painters.parameters(), lr=config.learning_rate, betas=_BETAS)
        self._targets = layer_targets(layers, teacher.device)
        self._deck = LabelDeck(classes)

    def paint(self, labels: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Make pixels by input, one picture for each of the (N,) labels, at least 2; not cut to [0, 1]."""
        device, size = self.teacher.device, (len(labels), self.config.latent_size)
        pixels = {}
        for name, painter in zip(self._names, self._painters, strict=True):
            latents = torch.randn(size, generator=rng, device=rng.device).to(device)
            with reduced_precision(device):
                pixels[name] = painter(latents, labels.to(device))
        return pixels

    def draw(self, labels: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Make network inputs, ready to feed, one sample for each of the (N,) labels, at least 2.

        Differentiable to the generator's weights. Samples are normalised by the moments of all that are drawn together:
        they come out as learned where classes are mixed as they were then.
        """
        return self._fed(self.paint(labels, rng))

    def step(self, count: int, rng: torch.Generator, extra: Extra | None = None) -> Batch:
        """Take one training step, on ``count`` samples or as many more as fill the network's fixed batch.

        Over successive steps each class is asked for as often as any other.
        """
        labels = self._deck.deal(self.feeding.rounded(count), rng).to(self.teacher.device)
        inputs = self.draw(labels, rng)
        measured, scores = self._judged(inputs, len(labels))
        class_term = class_loss(class_logits(scores), labels)
        bn_term = _DISTANCES[self.config.distance](measured, self._targets)
        loss = self.config.class_weight * class_term + self.config.bn_weight * bn_term
        if extra is not None:
            loss = loss + extra(inputs, scores, labels)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return Batch(
            inputs={name: value.detach() for name, value in inputs.items()},
            labels=labels,
            scores=scores.detach(),
            loss=float(loss.detach()),
            class_loss=float(class_term.detach()),
            bn_loss=float(bn_term.detach()),
        )

    def piece(self, count: int) -> int:
        """Say how many of ``count`` samples the networks take at a time: the batch they insist on, or what fits."""
        # what the generator keeps is there in any case, so the teacher alone decides how many samples fit
        fitting = plan_budget(count, "balanced", self._teacher_cost, iterations=1).batch_size
        return self.feeding.fixed_batch or fitting

    def state(self) -> dict[str, Any]:
        """Return a copy of weights, optimiser and labels to come; ``torch.load`` reads it with ``weights_only``."""
        return {
            "weights": deepcopy(dict(self._painters.state_dict())),
            "optimizer": deepcopy(self._optimizer.state_dict()),
            "labels": self._deck.rest.clone(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a source that was made with the same arguments.

        Raises:
            RuntimeError: the state is that of another network.

        """
        self._painters.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._deck.rest = state["labels"].cpu().clone()

    def _fed(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return laid_out(self.feeding.fed({name: value.clamp(0.0, 1.0) for name, value in pixels.items()}))

    def _judged(self, inputs: Mapping[str, Tensor], size: int) -> tuple[list[Moments], Tensor]:
        """Moments of the layers' inputs over the batch, and the scores of its samples."""

        def judged(start: int, stop: int) -> tuple[list[Moments], Tensor]:
            with reduced_precision(self.teacher.device):
                values = self.teacher.run({name: value[start:stop] for name, value in inputs.items()}, self._outputs)
            return layer_moments(self.layers, values), values[self.scores]

        parts, sizes = in_pieces(judged, size, self.piece(size))
        moments = [joined([part[index] for part, _ in parts], sizes) for index in range(len(self.layers))]
        return moments, torch.cat([scores for _, scores in parts])
