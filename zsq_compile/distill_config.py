"""What a user can decide about distillation."""

from dataclasses import dataclass, replace
from pathlib import Path

from zsq_compile.errors import ConfigError
from zsq_compile.requirements import require_count, require_folder, require_number


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
        checkpoint: path of a file that keeps the state every few minutes and on an interruption, and that is continued
            from where it exists. None, the default, keeps nothing.

    """

    steps: int | None = None
    learning_rate: float = 5e-3
    temperature: float = 4.0
    feature_weight: float = 0.0
    perturbation: float = 0.0
    mixup: bool = False
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        require_count("distill.steps", self.steps)
        require_number("distill.learning_rate", self.learning_rate, above=0.0)
        require_number("distill.temperature", self.temperature, above=0.0)
        require_number("distill.feature_weight", self.feature_weight, low=0.0)
        require_number("distill.perturbation", self.perturbation, low=0.0)


def chosen_distillation(
    configured: DistillConfig | None, wanted: bool | None, checkpoint: Path | None
) -> DistillConfig | None:
    """Lay what was given on the command line over what a configuration file says.

    Args:
        configured: by the file; None where it has no such table.
        wanted: ``--distill`` or ``--no-distill``; None where neither was given.
        checkpoint: file to keep the state in, if any.

    Raises:
        ConfigError: a checkpoint is given and no distillation wanted, or it cannot stand where it is to.

    """
    chosen = configured if wanted is None else (configured or DistillConfig()) if wanted else None
    if checkpoint is None:
        return chosen
    if chosen is None:
        raise ConfigError("--distill-checkpoint keeps the state of a distillation: give --distill as well")
    require_folder(checkpoint)
    return replace(chosen, checkpoint=str(checkpoint))
