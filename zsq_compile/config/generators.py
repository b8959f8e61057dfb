"""Settings of the generators that draw images, or optimise their pixels: our own, and the field's baselines.

A published one takes the numbers of its paper as defaults, but for the iterations: papers take 500 to 1000, an effort
far fewer.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from zsq_compile.config.checks import Bounds
from zsq_compile.config.fields import Count, Positive, Share, Weight, check_fields
from zsq_compile.errors import ConfigError

Distribution = Literal["normal", "uniform"]
Distance = Annotated[float, Bounds(low=0.0, high=2.0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class DescentConfig:
    """What all generators have that optimise pixels; they differ in the defaults.

    Attributes:
        iterations: optimiser steps per batch. None, the default, takes them from the effort and the cost of the model.
        learning_rate: step of Adam, in standard deviations of the noise that it starts from.
        batch_size: images optimised together, each by itself. None, the default, takes it from the image size.

    """

    iterations: Count | None = None
    learning_rate: Positive = 0.5
    batch_size: Count | None = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        check_fields(self, "generator")


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroqConfig(DescentConfig):
    """Calibrate on noise whose every image is moved to the remembered statistics (ZeroQ, Cai et al. 2020).

    Attributes:
        iterations: optimiser steps per batch. None, the default, takes them from the effort and the cost of the model;
            the paper takes 500.

    """


@dataclass(frozen=True, kw_only=True, slots=True)
class DsgConfig(DescentConfig):
    """Calibrate as ``zeroq``, but with slack, and another layer stressed for every image (DSG, Zhang et al. 2021).

    Attributes:
        iterations: optimiser steps per batch. None, the default, takes them from the effort and the cost of the model;
            the paper takes 500.
        slack: share of the gaps between Gaussian noise and the statistics that a layer leaves alone: gaps up to this
            quantile cost nothing. 0.9, the paper's, leaves most of the noise as it is; lower matches more.
        emphasis: weight of image i's layer i mod L of the network's L; 1 stresses none.

    """

    learning_rate: Positive = 0.9
    slack: Share = 0.9
    emphasis: Annotated[float, Bounds(low=1.0)] = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class IntraqConfig(DescentConfig):
    """Calibrate on images of classes that differ within their class (IntraQ, Zhong et al. 2022); classifiers only.

    What is None by default is taken from the number of classes as the paper does: up to 10, up to 100, more.

    Attributes:
        iterations: optimiser steps per batch. None, the default, takes them from the effort and the cost of the model;
            the paper takes 1000.
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

    local_share: Share = 0.5
    smallest_part: Annotated[float, Bounds(above=0.0, high=1.0)] = 0.5
    least_confidence: Share | None = None
    least_distance: Distance | None = None
    most_distance: Distance | None = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        check_fields(self, "generator")
        low, high = self.least_distance, self.most_distance
        if low is not None and high is not None and low > high:
            raise ConfigError(f"generator.least_distance {low} is above generator.most_distance {high}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """Calibrate on random numbers: the baseline that every other generator has to beat.

    Attributes:
        distribution: ``normal`` draws pixels around the middle of the input range and cuts them to it, ``uniform``
            draws them evenly from it. Normal by default: it is what the literature calls noise calibration.

    """

    distribution: Distribution = "normal"

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        check_fields(self, "generator")


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorConfig:
    """Calibrate on procedural images with natural statistics; needs no batch normalisation in the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelsConfig(DescentConfig):
    """Calibrate on images whose pixels are optimised until the network's batch normalisation statistics come out.

    Attributes:
        learning_rate: step of the optimiser, in units of a pixel range of 1. 0.05 crosses the range in about 20 steps,
            slow enough for the deep layers' statistics to follow.
        class_weight: weight of a classification loss towards random classes; 0, the default, leaves classes alone,
            because a network that is no classifier has none.
        batch_size: images optimised together; their joint statistics are matched. None, the default, takes it from the
            image size, so that memory stays bounded.

    """

    learning_rate: Positive = 0.05
    class_weight: Weight = 0.0
