"""Settings of ``genie``, which learns a generator network for each batch of images."""

from dataclasses import dataclass
from typing import Annotated

from zsq_compile.config.checks import Bounds
from zsq_compile.config.fields import Count, Positive, Weight, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class GenieConfig:
    """Calibrate on images of a generator network that is learned, with its latent vectors, for each batch of them.

    Attributes:
        iterations: optimiser steps per batch. None, the default, takes them from the effort and the cost of the model;
            the authors take 4000.
        batch_size: images that share a generator, and whose joint statistics are matched. None, the default, is the
            authors' 128, or all there are. At least 2, as the generator normalises by the moments of its batch.
        latent_size: length of the latent vectors.
        latent_learning_rate: learning rate of the latent vectors, at the start; a tenth of it whenever the loss stops
            falling.
        generator_learning_rate: learning rate of the generator's weights, at the start; an eighth of it at the end.
        image_weight: weight of each single normalised image's distance from mean 0 and deviation 1, as the authors
            have it.
        swing: let the strided convolutions of the network start at a random place in every step, so that they print no
            checkerboard on the images.

    """

    iterations: Count | None = None
    batch_size: Annotated[int, Bounds(low=2, hint="genie normalises by the moments of a batch")] | None = None
    latent_size: Count = 256
    latent_learning_rate: Positive = 0.1
    generator_learning_rate: Positive = 0.01
    image_weight: Weight = 1.0
    swing: bool = True

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        check_fields(self, "generator")
