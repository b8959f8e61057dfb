"""Feeding, and how the pictures among its samples are looked at and moved."""

import torch

from zsq_compile.synthesis.feeding import Feeding
from zsq_compile.synthesis.images.spectral import power_law_filter
from zsq_compile.synthesis.matching import Samples

# Moves of the smoothed gradient are the same all over a neighbourhood: one a seventh as large shows as much as a move
# of independent pixels, which is what the configured rate is meant for.
_SMOOTH_RATE = 0.15


class PictureFeeding(Feeding):
    """Samples of which pictures are optimised: mirrored at random, and moved as natural pictures differ."""

    def view(self, samples: Samples, rng: torch.Generator) -> dict[str, torch.Tensor]:
        """Make feeds of a batch, its pictures mirrored every other time, at random."""
        mirrored = bool(torch.rand((), generator=rng, device=rng.device) < 0.5)
        return self.fed(
            {name: value.flip(-1) if mirrored and name in self.contracts else value for name, value in samples.items()}
        )

    def rates(self, learning_rate: float) -> dict[str, float]:
        """Learning rate by input."""
        return {
            spec.name: learning_rate * (_SMOOTH_RATE if spec.name in self.contracts else 1.0) for spec in self.inputs
        }

    def smooth(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """Turn the gradient of a picture into a move with the spectrum of pictures, 1/f; others stay."""
        return power_law_filter(gradient) if name in self.contracts else gradient
