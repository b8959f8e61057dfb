"""What class a made sample shall belong to, for networks whose output looks like class scores.

A photograph mostly shows something; a procedural picture leaves a classifier in doubt, and whether its first or second
choice wins then depends on nothing. *Decided* targets push every sample, gently, towards the class that it is nearest
to, until the network is as sure as it is of photographs. *Random* targets ask for a balanced set of classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch

from zsq_compile.synthesis.losses import class_loss

_DECISION_WEIGHT = 0.001
_SURE = 0.75


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Classes:
    """Class targets.

    Attributes:
        output: name of the network's output that holds the scores.
        labels: (count,) class of each sample.
        weight: of the loss.
        slack: a sample whose cross-entropy is below it is left alone.

    """

    output: str
    labels: torch.Tensor
    weight: float
    slack: float

    def loss(self, values: Mapping[str, torch.Tensor], start: int) -> torch.Tensor:
        """Weighted mean loss of the batch of samples from ``start`` on."""
        scores = values[self.output]
        losses = class_loss(_logits(scores), self.labels[start : start + len(scores)])
        return self.weight * (losses - self.slack).clamp_min(0.0).mean()


def score_output(outputs: Mapping[str, torch.Tensor]) -> str | None:
    """Name of the first output of shape (N, classes), or (N, classes, 1, 1), with two classes or more."""
    for name, value in outputs.items():
        if value.is_floating_point() and value.ndim >= 2 and value.shape[1] > 1 and value[0].numel() == value.shape[1]:
            return name
    return None


def random_classes(output: str, classes: int, count: int, weight: float, rng: torch.Generator) -> Classes:
    """Every class as often as every other, in random order."""
    labels = torch.arange(count, device=rng.device) % classes
    labels = labels[torch.randperm(count, generator=rng, device=rng.device)]
    return Classes(output=output, labels=labels, weight=weight, slack=0.0)


def decided_classes(output: str, scores: torch.Tensor) -> Classes | None:
    """Let each sample keep the class that speaks for it more than for the others, by its (count, classes) ``scores``.

    None if they are no class scores: a classifier that was trained prefers some class to all others even of procedural
    pictures, where the outputs of a regression do not.
    """
    logits = _logits(scores)
    count = logits.shape[1]
    if float(logits.softmax(1).amax(1).mean()) < 0.2 + 0.8 / count:
        return None
    labels = (logits - logits.mean(0)).argmax(1)
    return Classes(output=output, labels=labels, weight=_DECISION_WEIGHT, slack=-log(_SURE))


def _logits(scores: torch.Tensor) -> torch.Tensor:
    """(N, classes) logits of scores that may have been through a Softmax already."""
    flat = scores.flatten(1).float()
    sums = flat.detach().sum(1)
    if bool((flat.detach() >= 0.0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-2):
        return flat.clamp_min(1e-12).log()
    return flat
