"""What a user can decide about distillation."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from zsq_compile.config.checks import require_choice, require_count, require_folder, require_number
from zsq_compile.errors import ConfigError

Adversary = Literal["none", "margin", "gaussian", "adadfq"]
"""How a generator learns from the student that it makes samples for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Train the whole quantized network towards the float one, behind everything else; its presence switches it on.

    Attributes:
        steps: of the optimiser. None, the default, takes them from the effort and the cost of the model, or from the
            time that is left of a budget.
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
        live_share: of each batch that is made meanwhile, on average; 1 leaves the samples that are there to judge only.
        live_ratio: batches that one step of the generator serves; more where these are less than 16 samples.
        adversary: how the generator learns from the student: ``margin`` pushes samples that the student copies too
            well, up to a random margin (Luo et al. 2024, reconstructed), ``gaussian`` likewise without an edge,
            ``adadfq`` bounds the disagreement from both sides, and ``none`` leaves the student out. None, the default,
            is what the generator is made for.
        adversary_weight: of that in the generator's loss.
        checkpoint: path of a file that keeps the state every few minutes and on an interruption, and that is continued
            from where it exists. None, the default, keeps nothing.

    """

    steps: int | None = None
    learning_rate: float = 5e-3
    temperature: float = 4.0
    feature_weight: float = 0.0
    perturbation: float = 0.0
    mixup: bool = False
    live: bool | None = None
    live_share: float = 0.5
    live_ratio: int = 4
    adversary: Adversary | None = None
    adversary_weight: float = 1.0
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        require_count("distill.steps", self.steps)
        require_number("distill.learning_rate", self.learning_rate, above=0.0)
        require_number("distill.temperature", self.temperature, above=0.0)
        require_number("distill.feature_weight", self.feature_weight, low=0.0)
        require_number("distill.perturbation", self.perturbation, low=0.0)
        require_number("distill.live_share", self.live_share, above=0.0, high=1.0)
        require_count("distill.live_ratio", self.live_ratio)
        if self.adversary is not None:
            require_choice("distill.adversary", self.adversary, get_args(Adversary))
        require_number("distill.adversary_weight", self.adversary_weight, low=0.0)
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


def chosen_distillation(
    configured: DistillConfig | None, wanted: bool | None, checkpoint: Path | None, *, margin: bool = False
) -> DistillConfig | None:
    """Lay what was given on the command line over what a configuration file says.

    Args:
        configured: by the file; None where it has no such table.
        wanted: ``--distill`` or ``--no-distill``; None where neither was given.
        checkpoint: file to keep the state in, if any.
        margin: ``--adversarial-margin``.

    Raises:
        ConfigError: a checkpoint or a margin is given and no distillation wanted, or the checkpoint cannot stand where
            it is to.

    """
    chosen = configured if wanted is None else (configured or DistillConfig()) if wanted else None
    if margin and chosen is None:
        raise ConfigError("--adversarial-margin trains the generator beside a student: give --distill as well")
    if margin and chosen is not None:
        chosen = replace(chosen, adversary="margin")
    if checkpoint is None:
        return chosen
    if chosen is None:
        raise ConfigError("--distill-checkpoint keeps the state of a distillation: give --distill as well")
    require_folder(checkpoint)
    return replace(chosen, checkpoint=str(checkpoint))
