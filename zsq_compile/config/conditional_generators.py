"""Settings of the generators that learn one network for all images, which is told the class that each shall show."""

from dataclasses import dataclass
from typing import Literal, get_args

from zsq_compile.config.checks import require_choice, require_count, require_number
from zsq_compile.errors import ConfigError

Distance = Literal["kl", "moments"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionalConfig:
    """What all three have; they differ in the defaults.

    Attributes:
        iterations: see ZsCganConfig, as all others.
        batch_size: see there.
        latent_size: see there.
        learning_rate: see there.
        class_weight: see there.
        bn_weight: see there.
        distance: see there.
        embedded_classes: see there.
        classes: see there.

    """

    iterations: int | None = None
    batch_size: int = 128
    latent_size: int = 100
    learning_rate: float = 1e-2
    class_weight: float = 1.0
    bn_weight: float = 1.0
    distance: Distance = "kl"
    embedded_classes: int = 0
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        for name in ("iterations", "latent_size"):
            require_count(f"generator.{name}", getattr(self, name))
        if not isinstance(self.batch_size, int) or self.batch_size < 2:
            raise ConfigError(
                "generator.batch_size must be at least 2: the network normalises by the moments of a batch"
            )
        require_number("generator.learning_rate", self.learning_rate, above=0.0)
        require_number("generator.class_weight", self.class_weight, low=0.0)
        require_number("generator.bn_weight", self.bn_weight, low=0.0)
        require_choice("generator.distance", self.distance, get_args(Distance))
        require_number("generator.embedded_classes", self.embedded_classes, low=0)
        if self.classes is not None:
            _check_classes(self.classes)


@dataclass(frozen=True, kw_only=True, slots=True)
class ZsCganConfig(ConditionalConfig):
    """Calibrate on images of classes, by one conditional network against the fixed model (ZS-CGAN, Choi et al. 2022).

    Attributes:
        iterations: steps of the network's optimiser, one batch each. None, the default, takes them from the effort and
            the cost of the model.
        batch_size: images of a step; their joint statistics are matched. At least 2, as the network normalises by the
            moments of its batch.
        latent_size: length of the latent vectors.
        learning_rate: step of Adam. GDFQ takes 1e-3 over 80 000 steps; over hundreds, 1e-2 comes further.
        class_weight: weight of the cross-entropy between the asked classes and what the model sees.
        bn_weight: weight of the distance from the batch normalisation statistics. 10 by default: on resnet20, 200 steps
            with 1 left them at 0.08, with 10 and half the batch at 0.045; 128 real images are 0.014 away.
        distance: ``kl`` is the divergence of Gaussians, averaged over channels; ``moments`` the squared errors of means
            and variances, averaged over channels, then over layers.
        embedded_classes: up to so many classes, a label scales the latent vector by numbers of its own; above, it has a
            scale and a shift of its own in every normalisation of the network. 0, the default, always does the latter.
        classes: numbers of the classes to draw, equally often. None, the default, draws all. The network learns all.

    """

    learning_rate: float = 1e-2
    bn_weight: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GdfqConfig(ConditionalConfig):
    """Calibrate as ``zs-cgan``, with the loss and the labels of GDFQ (Xu et al. 2020).

    Attributes:
        iterations: steps of the network's optimiser, one batch each. None, the default, takes them from the effort and
            the cost of the model; the paper takes 80 000, along with the quantized network.
        batch_size: images of a step. The paper takes 200 at 32 pixels and 16 at 224.
        latent_size: length of the latent vectors.
        learning_rate: step of Adam. GDFQ takes 1e-3 over 80 000 steps; over hundreds, 1e-2 comes further.
        class_weight: weight of the cross-entropy between the asked classes and what the model sees.
        bn_weight: weight of the distance from the batch normalisation statistics.
        distance: ``moments``, or ``kl``; see ``zs-cgan``.
        embedded_classes: up to so many classes, a label scales the latent vector by numbers of its own; above, it has a
            scale and a shift of its own in every normalisation of the network.
        classes: numbers of the classes to draw, equally often. None, the default, draws all. The network learns all.

    """

    learning_rate: float = 1e-2
    bn_weight: float = 0.1
    distance: Distance = "moments"
    embedded_classes: int = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class AdadfqConfig(ConditionalConfig):
    """Calibrate as ``gdfq``, on images that a quantized network gets wrong within bounds (AdaDFQ, Qian et al. 2023).

    Before distillation that network is a provisional one: weights rounded to the nearest, ranges from procedural
    images.

    Attributes:
        iterations: see GdfqConfig.
        batch_size: see there; the paper takes 16.
        latent_size: see there.
        learning_rate: see there.
        class_weight: see there; 0, the default, as the asked class counts in what follows.
        bn_weight: see there.
        distance: see there.
        embedded_classes: see there.
        classes: see there.
        lower: least normalised entropy, 0 to 1, of the difference of both networks' scores, which is high where they
            agree.
        upper: most of it.
        disagreement_weight: of the asked class in that difference.
        agreement_weight: of the asked class in the sum of both networks' scores.

    """

    class_weight: float = 0.0
    bn_weight: float = 1.0
    distance: Distance = "moments"
    embedded_classes: int = 100
    lower: float = 0.1
    upper: float = 0.8
    disagreement_weight: float = 0.2
    agreement_weight: float = 0.1

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        # slots make another class of this one, which super() without arguments does not know
        ConditionalConfig.__post_init__(self)
        require_number("generator.lower", self.lower, low=0.0, high=1.0)
        require_number("generator.upper", self.upper, low=self.lower, high=1.0)
        require_number("generator.disagreement_weight", self.disagreement_weight, low=0.0)
        require_number("generator.agreement_weight", self.agreement_weight, low=0.0)


def _check_classes(classes: tuple[int, ...]) -> None:
    if not classes or any(isinstance(label, bool) or not isinstance(label, int) or label < 0 for label in classes):
        raise ConfigError(f"generator.classes needs numbers of classes, counted from 0, got {list(classes)}")
    if len(set(classes)) < len(classes):
        raise ConfigError(f"generator.classes names a class twice, got {list(classes)}")
