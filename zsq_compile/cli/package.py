"""``zsq-compile package``: a compiled model and all that belongs to it, for the device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from zsq_compile.cli.command import Answer, Call, Command
from zsq_compile.cli.options import CommandOptions
from zsq_compile.config.fields import Option
from zsq_compile.config.units import size_words


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageOptions(CommandOptions):
    """What packing takes.

    Attributes:
        model: the quantized ONNX model.
        output: the package: one file where the name ends in .tar.gz or .tgz, else a folder.
        target: what the model is to run on: a name, or a target file of your own.
        samples: inputs to put in, one array per network input, instead of synthetic ones.
        report: an HTML report to put in.
        json_report: what --json printed when the model was compiled, to put in.
        ort: make an .ort file too.

    """

    output: Annotated[
        Path | None,
        Option(names=("--output", "-o"), default="MODEL.zsq beside the model"),
    ] = None
    target: Annotated[str | None, Option(metavar="NAME|FILE.toml", default="that it was compiled for")] = None
    samples: Annotated[Path | None, Option(metavar="FILE.npz")] = None
    report: Annotated[Path | None, Option(metavar="FILE.html")] = None
    json_report: Annotated[Path | None, Option(metavar="FILE.json")] = None
    ort: Annotated[bool | None, Option(names=("--ort/--no-ort",), default="yes, unless weights are packed")] = None


def package_command(call: Call[PackageOptions]) -> Answer:
    """Pack a compiled model for a device, with samples to prove it by and a program that checks it all."""
    from zsq_compile.files import read_arrays
    from zsq_compile.packaging.build import build_package

    options = call.options
    path = options.output or options.model.with_suffix(".zsq")
    made = build_package(
        options.model,
        path,
        target=options.target,
        samples=None if options.samples is None else read_arrays(options.samples),
        report=options.report,
        json_report=options.json_report,
        ort=options.ort,
    )
    for note in made.notes:
        call.progress.note(note)
    files = made.manifest["files"]
    runs, size = len(made.manifest["samples"]), sum(entry["bytes"] for entry in files.values())
    return Answer(
        plain=lambda: {"output": str(path), "notes": made.notes, "manifest": made.manifest},
        brief=(path,),
        lines=(
            f"{len(files)} files, {size_words(size)}, {runs} samples, for {made.manifest['target']['name']}",
            f"written to {path}",
        ),
    )


COMMAND = Command(
    own=PackageOptions,
    work=package_command,
    epilog="On the device: zsq-compile verify PACKAGE, or python verify.py in it; that needs only onnxruntime and "
    "numpy.",
)
