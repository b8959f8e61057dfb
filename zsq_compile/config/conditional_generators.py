"""Settings of the generators that learn one network for all images, which is given the class that each shall show."""

from dataclasses import dataclass
from typing import Annotated, Literal

from zsq_compile.config.checks import Bounds, require_number
from zsq_compile.config.fields import DATA, Count, Option, Positive, Share, Weight, check_fields
from zsq_compile.config.units import parse_classes
from zsq_compile.errors import ConfigError

Distance = Literal["kl", "moments"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionalConfig:
    """What all three have; they differ in the defaults.

    Attributes:
        iterations: steps of the network's optimiser, one batch each. None, the default, takes them from the effort and
            the cost of the model.
        batch_size: images of a step; their joint statistics are matched. At least 2, as the network normalises by the
            moments of its batch.
        latent_size: length of the latent vectors.
        learning_rate: step of Adam. GDFQ takes 1e-3 over 80 000 steps; over hundreds, 1e-2 comes further.
        class_weight: weight of the cross-entropy between the asked classes and what the model sees.
        bn_weight: weight of the distance from the batch normalisation statistics.
        distance: ``kl`` is the divergence of Gaussians, averaged over channels; ``moments`` the squared errors of means
            and variances, averaged over channels, then over layers.
        embedded_classes: up to so many classes, a label scales the latent vector by numbers of its own; above, it has a
            scale and a shift of its own in every normalisation of the network. 0 always does the latter.
        classes: numbers of the classes to draw, equally often, by a generator of classes (zs-cgan, gdfq, adadfq); the
            file of ``synth`` has the class of each sample as ``labels``. None, the default, draws all. The network
            learns all.

    """

    iterations: Count | None = None
    batch_size: Annotated[int, Bounds(low=2, hint="the network normalises by the moments of a batch")] = 128
    latent_size: Count = 100
    learning_rate: Positive = 1e-2
    class_weight: Weight = 1.0
    bn_weight: Weight = 1.0
    distance: Distance = "kl"
    embedded_classes: Annotated[int, Bounds(low=0)] = 0
    classes: Annotated[
        tuple[int, ...] | None, Option(panel=DATA, metavar="A,B,C", default="all", read=parse_classes)
    ] = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        check_fields(self, "generator")
        if self.classes is not None:
            _check_classes(self.classes)


@dataclass(frozen=True, kw_only=True, slots=True)
class ZsCganConfig(ConditionalConfig):
    """Calibrate on images of classes, by one conditional network against the fixed model (ZS-CGAN, Choi et al. 2022).

    Attributes:
        bn_weight: weight of the distance from the batch normalisation statistics. 10 by default: on resnet20, 200 steps
            with 1 left them at 0.08, with 10 and half the batch at 0.045; 128 real images are 0.014 away.

    """

    bn_weight: Weight = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GdfqConfig(ConditionalConfig):
    """Calibrate as ``zs-cgan``, with the loss and the labels of GDFQ (Xu et al. 2020).

    Attributes:
        iterations: steps of the network's optimiser, one batch each. None, the default, takes them from the effort and
            the cost of the model; the paper takes 80 000, along with the quantized network.
        batch_size: images of a step; their joint statistics are matched. At least 2, as the network normalises by the
            moments of its batch; the paper takes 200 at 32 pixels and 16 at 224.

    """

    bn_weight: Weight = 0.1
    distance: Distance = "moments"
    embedded_classes: Annotated[int, Bounds(low=0)] = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class AdadfqConfig(ConditionalConfig):
    """Calibrate as ``gdfq``, on images that a quantized network gets wrong within bounds (AdaDFQ, Qian et al. 2023).

    Before distillation that network is a provisional one: weights rounded to the nearest, ranges from procedural
    images. The defaults of the last four are the authors' for CIFAR.

    Attributes:
        batch_size: images of a step; their joint statistics are matched. At least 2, as the network normalises by the
            moments of its batch; the paper takes 16.
        class_weight: weight of the cross-entropy between the asked classes and what the model sees. 0, the default, as
            the asked class counts in what follows.
        lower: λl, the least normalised entropy, 0 to 1, of the difference P - Q of the scores of the float and the
            quantized network. It is high where they agree.
        upper: λu, the most of that entropy.
        disagreement_weight: αds, weight of the cross-entropy of the asked class in P - Q.
        agreement_weight: αas, weight of the cross-entropy of the asked class in P + Q.

    """

    class_weight: Weight = 0.0
    distance: Distance = "moments"
    embedded_classes: Annotated[int, Bounds(low=0)] = 100
    lower: Share = 0.1
    upper: Share = 0.8
    disagreement_weight: Weight = 0.2
    agreement_weight: Weight = 0.1

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        # slots make another class of this one, which super() without arguments does not know
        ConditionalConfig.__post_init__(self)
        require_number("generator.upper", self.upper, Bounds(low=self.lower, high=1.0))


def _check_classes(classes: tuple[int, ...]) -> None:
    if not classes or any(isinstance(label, bool) or not isinstance(label, int) or label < 0 for label in classes):
        raise ConfigError(f"generator.classes needs numbers of classes, counted from 0, got {list(classes)}")
    if len(set(classes)) < len(classes):
        raise ConfigError(f"generator.classes names a class twice, got {list(classes)}")
