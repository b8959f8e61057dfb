"""What a user can decide about distillation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from zsq_compile.config.checks import Bounds
from zsq_compile.config.fields import PRECISION, RUN, Count, Option, Positive, Weight, check_fields
from zsq_compile.errors import ConfigError

Adversary = Literal["none", "margin", "gaussian", "adadfq"]
"""How a generator learns from the student that it makes samples for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Train the whole quantized network towards the float one, behind everything else; its presence switches it on.

    Attributes:
        steps: steps of the optimiser. None, the default, takes them from the effort and the cost of the model, or from
            the time that is left of a budget.
        learning_rate: how far a weight moves in one step at the start, in units of its integer code; all other rates
            are relative to it.
        temperature: softens the classes' probabilities, so that the small ones are learned as well. 4 by default; the
            literature has 4 to 20.
        feature_weight: weight of the distance between the channel attentions (HAST) at the ends of the blocks, against
            that of the outputs. 0, the default, leaves it out; it needs hundreds to matter.
        perturbation: how far copies of the samples are pushed up the gradient of the loss (HAST), in standard
            deviations of the input; they are learned as well, in twice the time. 0, the default, leaves them out.
        mixup: learn on mixtures of two samples instead of on the samples. Off by default.
        live: learn on samples that the generator makes meanwhile, beside those that are there; needs a generator that
            can go on learning. None, the default, does where the generator can.
        live_share: share of each batch that is made meanwhile, on average; 1 leaves the samples that are there to judge
            only.
        live_ratio: batches that one step of the generator serves; more where these are less than 16 samples.
        adversary: how the generator learns from the student: ``margin`` pushes samples that the student copies too
            well, up to a random margin (Luo et al. 2024, reconstructed), ``gaussian`` does so without an edge,
            ``adadfq`` bounds the disagreement from both sides, and ``none`` leaves the student out. None, the default,
            is what the generator is made for.
        adversary_weight: weight of the adversary in the generator's loss.
        checkpoint: file that keeps the state of ``distill``, every few minutes and on Ctrl-C; the same command goes on
            from there. None, the default, keeps nothing.

    """

    steps: Count | None = None
    learning_rate: Positive = 5e-3
    temperature: Positive = 4.0
    feature_weight: Weight = 0.0
    perturbation: Weight = 0.0
    mixup: bool = False
    live: bool | None = None
    live_share: Annotated[float, Bounds(above=0.0, high=1.0)] = 0.5
    live_ratio: Count = 4
    adversary: Annotated[
        Adversary | None,
        Option(
            panel=PRECISION,
            names=("--adversarial-margin",),
            value="margin",
            default="off",
            help="With ``distill`` and a generator of classes, such as gdfq: go on training the generator, and push "
            "samples that the quantized network copies too well, up to a random margin.",
        ),
    ] = None
    adversary_weight: Weight = 1.0
    checkpoint: Annotated[str | None, Option(panel=RUN, names=("--distill-checkpoint",), metavar="FILE")] = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        check_fields(self, "distill")
        if self.live is False and self.adversary not in (None, "none"):
            raise ConfigError(
                f"distill.adversary {self.adversary} trains a generator beside the student, and distill.live says that "
                "none is to be: leave one of them out"
            )


def require_source(config: DistillConfig | None, advice: str | None) -> None:
    """Refuse samples that are to be made during distillation where nothing can make them.

    Args:
        config: of the distillation, if there is one.
        advice: what to do; None where there is a generator that can go on learning.

    """
    if config is None or advice is None:
        return
    if config.live or config.adversary not in (None, "none"):
        wanted = "distill.live" if config.live else f"the adversary {config.adversary} (--adversarial-margin)"
        raise ConfigError(f"{wanted} wants a generator that goes on learning while the network is distilled: {advice}")
