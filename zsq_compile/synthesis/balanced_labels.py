"""Labels in random order, each class as often as any other."""

import torch
from torch import Tensor


class BalancedLabels:
    """Draws classes like cards of shuffled packs: over all that was drawn, no class is ahead by more than one.

    Attributes:
        rest: (K,) labels of the current pack that were not drawn yet; save and restore it to continue a sequence.

    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.rest = torch.zeros(0, dtype=torch.int64)

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """(count,) labels, on the CPU."""
        parts = [self.rest]
        while sum(map(len, parts)) < count:
            parts.append(torch.randperm(self._classes, generator=rng, device=rng.device).cpu())
        labels = torch.cat(parts)
        self.rest = labels[count:].clone()
        return labels[:count]
