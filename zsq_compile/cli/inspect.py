"""``zsq-compile inspect``: what a model has in store, before the long job."""

from pathlib import Path

import typer
from rich.console import Console

import zsq_compile.cli.options as given
from zsq_compile.cli.command import SETTINGS, guarded, print_json
from zsq_compile.cli.overrides import build_config

inspect_app = typer.Typer(add_completion=False, context_settings=SETTINGS)

_EPILOG = (
    "Nothing is written. What would stop the compilation altogether is an error here too. Exit codes: 0 looked at; the "
    "others are those of zsq-compile --help."
)


@inspect_app.command(epilog=_EPILOG)
def inspect_command(
    context: typer.Context,
    model: given.Model,
    target: given.Target = None,
    input_shape: given.InputShape = None,
    checkpoint: given.Checkpoint = None,
    bn_stats: given.BnStats = None,
    json_wanted: given.Json = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
) -> None:
    """Look at a float ONNX model: statistics, input, what stays float and why, risks, size and time at 8 and 4 bits."""
    with guarded(json_wanted, quiet, verbose):
        settings = build_config(context.params)
        from zsq_compile.inspection.inspect import inspect_model

        found = inspect_model(
            Path(model),
            target=settings.target,
            input_shapes=settings.input.shapes,
            checkpoint=checkpoint,
            bn_stats=bn_stats,
        )
    if json_wanted:
        print_json({**found.to_json(), "exit_code": 0})
    elif quiet:
        for text in found.warnings:
            typer.echo(text)
    else:
        from zsq_compile.cli.inspection_table import print_inspection

        print_inspection(Console(), found)
