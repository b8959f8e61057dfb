"""``zsq-compile inspect``: what compiling a model would meet, before the long job."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from zsq_compile.cli.command import Answer, Call, Command
from zsq_compile.cli.options import CommandOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectOptions(CommandOptions):
    """What inspecting takes.

    Attributes:
        quiet: print errors and warnings, and nothing else.

    """


def inspect_command(call: Call[InspectOptions]) -> Answer:
    """Look at a float ONNX model: statistics, input, what stays float and why, risks, size and time at 8 and 4 bits."""
    from zsq_compile.cli.inspection_table import print_inspection
    from zsq_compile.inspection.inspect import inspect_model

    config = call.config
    found = inspect_model(
        call.options.model,
        target=config.target,
        input_shapes=config.input.shapes,
        checkpoint=None if config.checkpoint is None else Path(config.checkpoint),
        bn_stats=None if config.bn_stats is None else Path(config.bn_stats),
    )
    return Answer(plain=found.to_json, brief=found.warnings, table=partial(print_inspection, found=found))


COMMAND = Command(
    own=InspectOptions,
    configured=("target", "input_shape", "checkpoint", "bn_stats"),
    work=inspect_command,
    epilog="Nothing is written. What would stop the compilation altogether is an error here too. Exit codes: 0 looked "
    "at; the others are those of zsq-compile --help.",
)
