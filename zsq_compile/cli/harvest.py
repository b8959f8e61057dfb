"""``zsq-compile harvest``: batch normalisation statistics for a model where they are folded away."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from zsq_compile.cli.command import Answer, Call, Command
from zsq_compile.cli.options import CommandOptions
from zsq_compile.config.checks import require_folder
from zsq_compile.config.fields import RESULT, Option
from zsq_compile.files import file_sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class HarvestOptions(CommandOptions):
    """What harvesting takes.

    Attributes:
        output: the .npz file to write, for ``--bn-stats``.

    """

    output: Annotated[
        Path | None,
        Option(panel=RESULT, names=("--output", "-o"), default="MODEL.stats.npz beside the input"),
    ] = None


def harvest_command(call: Call[HarvestOptions]) -> Answer:
    """Keep what batch normalisation remembers of the training data, for --bn-stats and a model where it is folded."""
    model = call.options.model
    path = call.options.output or model.with_name(f"{model.stem}.stats.npz")
    require_folder(path)
    from zsq_compile.batchnorm.harvest import harvest_statistics

    norms = harvest_statistics(model, path, call.progress, input_shapes=call.config.input.shapes)
    values = [norm.entry.output for norm in norms]
    return Answer(
        plain=lambda: {"output": str(path), "model_sha256": file_sha256(model), "values": values},
        brief=(path,),
        lines=(f"{len(norms)} BatchNormalizations written to {path}",),
    )


COMMAND = Command(own=HarvestOptions, configured=("input_shape",), work=harvest_command)
