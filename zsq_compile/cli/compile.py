"""``zsq-compile MODEL``: quantize, prove, and say what it cost."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsq_compile.cli.command import COMMANDS, EXIT_CODES_TEXT, GATE_MISSED, STARTED, Answer, Call, Command
from zsq_compile.cli.options import CONFIGURED, ConfiguredOptions
from zsq_compile.config.checks import require_folder
from zsq_compile.config.fields import DATA, PRECISION, RESULT, Option
from zsq_compile.errors import ConfigError
from zsq_compile.version import VERSION

if TYPE_CHECKING:
    from zsq_compile.compiler import CompileResult


def _show_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"zsq-compile {VERSION}")
        raise typer.Exit


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileOptions(ConfiguredOptions):
    """What compiling takes beside its settings.

    Attributes:
        output: the quantized model.
        data: real inputs, with labels or without, only to measure the result: a folder with labels.csv or a folder per
            class, an .npz file with images and labels, or what ``calib`` takes.
        report: self-contained HTML report: every layer, the data, the bytes, the times; it needs no internet access.
        plan: bits of single layers and values, as ``save_plan`` writes them; they win over the other options.
        save_plan: keep the bits of every layer and value.
        calib: real inputs to calibrate on: pictures, .wav files, arrays, or folders of these; once for each. Few of
            them are put among synthetic ones. Arrays are taken as they are, but for bytes, which are RGB pixels.
        save_calib: keep the synthetic calibration data.
        version: show the version.

    """

    output: Annotated[
        Path | None,
        Option(panel=RESULT, names=("--output", "-o"), default="MODEL.w8a8.onnx beside the input"),
    ] = None
    data: Annotated[Path | None, Option(panel=RESULT, metavar="FILE|DIR")] = None
    report: Annotated[Path | None, Option(panel=RESULT, metavar="FILE.html")] = None
    plan: Annotated[Path | None, Option(panel=PRECISION, metavar="FILE.json")] = None
    save_plan: Annotated[Path | None, Option(panel=PRECISION, metavar="FILE.json")] = None
    calib: Annotated[tuple[Path, ...], Option(panel=DATA, metavar="FILE|DIR")] = ()
    save_calib: Annotated[Path | None, Option(panel=DATA, metavar="FILE.npz")] = None
    version: Annotated[bool, Option(at_once=_show_version)] = False


def compile_command(call: Call[CompileOptions]) -> Answer:
    """Quantize a trained float ONNX model without any data, and prove the result in ONNX Runtime."""
    result, options = _compile(call), call.options
    complaint = None
    if result.gate_missed:
        from zsq_compile.stages.gate import describe_held

        metric = result.report.metric
        got = (
            describe_held(result.report.agreement_estimate, result.report.held_agreement)
            if metric is None
            else f"the metric keeps {metric['kept']:.4f} of the float model's {metric['float']:g}"
        )
        complaint = f"--min-agreement {call.config.min_agreement} was missed: {got}; {result.path} was written"
    from zsq_compile.cli.result_table import print_result

    return Answer(
        plain=lambda: {**result.report.to_json(), "gate_missed": result.gate_missed},
        brief=(result.path,),
        table=partial(print_result, result=result),
        lines=() if options.report is None else (f"report in {options.report}",),
        exit_code=GATE_MISSED if result.gate_missed else 0,
        complaint=complaint,
    )


def _compile(call: Call[CompileOptions]) -> "CompileResult":
    """Read what is given beside the settings, compile, and keep what is asked for."""
    options = call.options
    if options.save_calib is not None and options.calib:
        raise ConfigError("--save-calib keeps synthetic data, but --calib brings its own: leave one out")
    for kept in (options.save_calib, options.save_plan):
        if kept is not None:
            require_folder(kept)
    from zsq_compile.reporting.html import require_page, write_page

    if options.report is not None:
        require_page(options.report)
    from zsq_compile.compiler import compile_model
    from zsq_compile.files import write_arrays
    from zsq_compile.quantization.plan_file import read_plan, write_plan
    from zsq_compile.stages.calibration_data import sample_arrays

    result = compile_model(
        options.model,
        options.output,
        call.config,
        calibration=tuple(options.calib) or None,
        data=options.data,
        given_plan=None if options.plan is None else read_plan(options.plan),
        samples_kept=options.save_calib is not None,
        pictures_wanted=options.report is not None,
        started=STARTED,
        progress=call.progress,
    )
    if options.save_calib is not None and result.synthetic is not None:
        write_arrays(options.save_calib, sample_arrays(result.synthetic.inputs, result.synthetic.labels))
    if options.save_plan is not None:
        write_plan(options.save_plan, result.plan)
    if options.report is not None:
        write_page(options.report, result.report)
    return result


COMMAND = Command(
    own=CompileOptions,
    configured=[name for name in CONFIGURED if name != "classes"],
    work=compile_command,
    epilog=f"{EXIT_CODES_TEXT} Other commands, each with its own --help: zsq-compile {', zsq-compile '.join(COMMANDS)} "
    "and, on a device, zsq-compile verify.",
)
