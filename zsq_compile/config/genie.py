"""Settings of ``genie``, which learns a generator network for each batch of images."""

from dataclasses import dataclass

from zsq_compile.config.checks import require_count, require_number
from zsq_compile.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class GenieConfig:
    """Calibrate on images of a generator network that is learned, with its latent vectors, for each batch of them.

    Attributes:
        iterations: optimiser steps per batch. None, the default, takes them from the effort and the cost of the model;
            the authors take 4000.
        batch_size: images that share a generator, and whose joint statistics are matched. None, the default, is the
            authors' 128, or all there are. At least 2, as the generator normalises by the moments of its batch.
        latent_size: length of the latent vectors.
        latent_learning_rate: of the latent vectors, at the start; a tenth of it whenever the loss stops falling.
        generator_learning_rate: of the generator's weights, at the start; an eighth of it at the end.
        image_weight: weight of each single normalised image's distance from mean 0 and deviation 1, as the authors
            have it.
        swing: let the strided convolutions of the network start at a random place in every step, so that they print no
            checkerboard on the images.

    """

    iterations: int | None = None
    batch_size: int | None = None
    latent_size: int = 256
    latent_learning_rate: float = 0.1
    generator_learning_rate: float = 0.01
    image_weight: float = 1.0
    swing: bool = True

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        for name in ("iterations", "batch_size", "latent_size"):
            require_count(f"generator.{name}", getattr(self, name))
        if self.batch_size == 1:
            raise ConfigError("generator.batch_size must be at least 2: genie normalises by the moments of a batch")
        require_number("generator.latent_learning_rate", self.latent_learning_rate, above=0.0)
        require_number("generator.generator_learning_rate", self.generator_learning_rate, above=0.0)
        require_number("generator.image_weight", self.image_weight, low=0.0)
