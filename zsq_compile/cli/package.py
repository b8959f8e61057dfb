"""``zsq-compile package``: a compiled model and all that belongs to it, for the device."""

from pathlib import Path
from typing import Annotated

import typer

import zsq_compile.cli.options as given
from zsq_compile.cli.command import SETTINGS, guarded, print_json
from zsq_compile.config.units import size_words

package_app = typer.Typer(add_completion=False, context_settings=SETTINGS)

_EPILOG = "On the device: zsq-compile verify PACKAGE, or python verify.py in it; that needs only onnxruntime and numpy."
Model = Annotated[Path, typer.Argument(help="The quantized ONNX model.", metavar="MODEL.onnx", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The package: one file where the name ends in .tar.gz or .tgz, else a folder.",
        show_default="MODEL.zsq beside the model",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="What the model is to run on: a name, or a target file of your own.",
        metavar="NAME|FILE.toml",
        show_default="that it was compiled for",
    ),
]
Samples = Annotated[
    Path | None,
    typer.Option(
        help="Inputs to put in, one array per network input, instead of made-up ones.",
        metavar="FILE.npz",
        show_default=False,
    ),
]
Report = Annotated[Path | None, typer.Option(help="An HTML report to put in.", metavar="FILE.html", show_default=False)]
JsonReport = Annotated[
    Path | None,
    typer.Option(
        help="What --json printed when the model was compiled, to put in.", metavar="FILE.json", show_default=False
    ),
]
Ort = Annotated[
    bool | None,
    typer.Option("--ort/--no-ort", help="Make an .ort file too.", show_default="yes, unless weights are packed"),
]


@package_app.command(epilog=_EPILOG)
def package_command(
    model: Model,
    output: Output = None,
    target: Target = None,
    samples: Samples = None,
    report: Report = None,
    json_report: JsonReport = None,
    ort: Ort = None,
    json_wanted: given.Json = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
) -> None:
    """Pack a compiled model for a device, with samples to prove it by and a program that checks it all."""
    path = output or model.with_suffix(".zsq")
    with guarded(json_wanted, quiet, verbose) as progress:
        from zsq_compile.files import read_arrays
        from zsq_compile.packaging.build import build_package

        made = build_package(
            model,
            path,
            target=target,
            samples=None if samples is None else read_arrays(samples),
            report=report,
            json_report=json_report,
            ort=ort,
        )
        for note in made.notes:
            progress.note(note)
    files = made.manifest["files"]
    if json_wanted:
        print_json({"output": str(path), "notes": made.notes, "manifest": made.manifest, "exit_code": 0})
    elif quiet:
        typer.echo(path)
    else:
        runs, size = len(made.manifest["samples"]), sum(entry["bytes"] for entry in files.values())
        typer.echo(f"{len(files)} files, {size_words(size)}, {runs} samples, for {made.manifest['target']['name']}")
        typer.echo(f"written to {path}")
