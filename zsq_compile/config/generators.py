"""Settings of published generators that optimise pixels from noise: the field's baselines beside our own.

Each takes the numbers of its paper as defaults, but for the iterations: papers take 500 to 1000, an effort far fewer.
"""

from dataclasses import dataclass

from zsq_compile.config.checks import require_count, require_number
from zsq_compile.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroqConfig:
    """Calibrate on noise whose every image is moved to the remembered statistics (ZeroQ, Cai et al. 2020).

    Attributes:
        iterations: optimiser steps per batch. None, the default, takes them from the effort and the cost of the model;
            the paper takes 500.
        learning_rate: step of Adam, in standard deviations of the noise that it starts from.
        batch_size: images optimised together, each by itself. None, the default, takes it from the image size.

    """

    iterations: int | None = None
    learning_rate: float = 0.5
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        _check_descent(self.iterations, self.learning_rate, self.batch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class DsgConfig:
    """Calibrate as ``zeroq``, but with slack, and another layer stressed for every image (DSG, Zhang et al. 2021).

    Attributes:
        iterations: optimiser steps per batch. None, the default, takes them from the effort and the cost of the model;
            the paper takes 500.
        learning_rate: step of Adam, in standard deviations of the noise that it starts from.
        batch_size: images optimised together, each by itself. None, the default, takes it from the image size.
        slack: share of the gaps between Gaussian noise and the statistics that a layer leaves alone: gaps up to this
            quantile cost nothing. 0.9, the paper's, leaves most of the noise as it is; lower matches more.
        emphasis: weight of image i's layer i mod L of the network's L; 1 stresses none.

    """

    iterations: int | None = None
    learning_rate: float = 0.9
    batch_size: int | None = None
    slack: float = 0.9
    emphasis: float = 2.0

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        _check_descent(self.iterations, self.learning_rate, self.batch_size)
        require_number("generator.slack", self.slack, low=0.0, high=1.0)
        require_number("generator.emphasis", self.emphasis, low=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class IntraqConfig:
    """Calibrate on images of classes that differ within their class (IntraQ, Zhong et al. 2022); classifiers only.

    What is None by default is taken from the number of classes as the paper does: up to 10, up to 100, more.

    Attributes:
        iterations: optimiser steps per batch. None, the default, takes them from the effort and the cost of the model;
            the paper takes 1000.
        learning_rate: step of Adam, in standard deviations of the noise that it starts from.
        batch_size: images optimised together; their joint statistics are matched. None, the default, takes it from the
            image size; the paper takes 256.
        local_share: probability that the network is shown a part of an image, enlarged, in place of the image.
        smallest_part: least share of the image's area that such a part has.
        least_confidence: half of the images aim at a probability of their class between this and 1, the others at 1.
            None takes 0.95, 0.6 or 1.
        least_distance: cosine distance from the centre of its class that an image shall have at least. None takes 0.05,
            0.02 or 0.
        most_distance: cosine distance that it shall have at most. None takes 0.8, 1 or 2, and 2 allows every one.

    """

    iterations: int | None = None
    learning_rate: float = 0.5
    batch_size: int | None = None
    local_share: float = 0.5
    smallest_part: float = 0.5
    least_confidence: float | None = None
    least_distance: float | None = None
    most_distance: float | None = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        _check_descent(self.iterations, self.learning_rate, self.batch_size)
        require_number("generator.local_share", self.local_share, low=0.0, high=1.0)
        require_number("generator.smallest_part", self.smallest_part, above=0.0, high=1.0)
        for name, highest in (("least_confidence", 1.0), ("least_distance", 2.0), ("most_distance", 2.0)):
            value = getattr(self, name)
            if value is not None:
                require_number(f"generator.{name}", value, low=0.0, high=highest)
        low, high = self.least_distance, self.most_distance
        if low is not None and high is not None and low > high:
            raise ConfigError(f"generator.least_distance {low} is above generator.most_distance {high}")


def _check_descent(iterations: int | None, learning_rate: float, batch_size: int | None) -> None:
    require_count("generator.iterations", iterations)
    require_count("generator.batch_size", batch_size)
    require_number("generator.learning_rate", learning_rate, above=0.0)
