"""The command line: words to a CompileConfig, errors to exit codes, the result to a table or to JSON.

Anything that can be done here, ``zsq_compile.compile_model`` and ``zsq_compile.synthesize`` can do as well. What needs
torch or a runtime is imported when the work begins, so that ``--help`` answers at once.
"""

import ctypes
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import zsq_compile.cli.options as given
from zsq_compile import __version__
from zsq_compile.cli.command import SETTINGS, guarded, print_json
from zsq_compile.cli.compare import compare_app
from zsq_compile.cli.inspect import inspect_app
from zsq_compile.cli.overrides import build_config, require_widths_used
from zsq_compile.cli.package import package_app
from zsq_compile.config.checks import require_folder
from zsq_compile.config.compile import CompileConfig
from zsq_compile.errors import ConfigError
from zsq_compile.progress import Progress

if TYPE_CHECKING:
    from zsq_compile.compiler import CompileResult

_STARTED = time.perf_counter()  # importing torch takes seconds, which a time budget counts
GATE_MISSED = 4

_EXIT_CODES = (
    "Exit codes: 0 done; 1 internal error; 2 wrong usage; 3 model invalid or unsupported; 4 --min-agreement missed, "
    "file written; 5 the file fails in the runtime; 6 out of memory or time; 130 interrupted."
)

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

compile_app = typer.Typer(add_completion=False, context_settings=SETTINGS)
synth_app = typer.Typer(add_completion=False, context_settings=SETTINGS)
harvest_app = typer.Typer(add_completion=False, context_settings=SETTINGS)
COMMANDS = {
    "inspect": inspect_app,
    "synth": synth_app,
    "harvest": harvest_app,
    "compare": compare_app,
    "package": package_app,
}
"""Commands by their first word; without one of these words the command line compiles."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; ``words`` None takes those of the process. Always ends in SystemExit."""
    # Idle threads of torch's OpenMP spin by default. Beside one other busy process that made the synthesis twenty times
    # slower on two cores; sleeping costs a tenth where nothing else runs. Read when torch is imported, so set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_freed_memory()
    arguments = list(sys.argv[1:] if words is None else words)
    app = COMMANDS.get(arguments[0]) if arguments else None
    if app is not None:
        app(arguments[1:], prog_name=f"zsq-compile {arguments[0]}")
    compile_app(arguments or ["--help"], prog_name="zsq-compile")


def _keep_freed_memory() -> None:
    """Let glibc keep large freed tensors for the next ones, where there is a glibc.

    By default each goes back to the system and is filled with zeros, page by page, when it comes again: that was a
    seventh of the time of a compilation at 224 pixels.
    """
    if hasattr(os, "confstr_names") and "CS_GNU_LIBC_VERSION" in os.confstr_names:
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(_MMAP_THRESHOLD, 1 << 30)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"zsq-compile {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)]


@compile_app.command(
    epilog=f"{_EXIT_CODES} Other commands: zsq-compile inspect MODEL, zsq-compile synth MODEL, harvest, compare and "
    "package likewise, and zsq-compile verify PACKAGE; see zsq-compile inspect --help and so on."
)
def compile_command(
    context: typer.Context,
    model: given.Model,
    output: given.Output = None,
    bits: given.Bits = None,
    act_bits: given.ActBits = None,
    edge_bits: given.EdgeBits = None,
    mixed: given.Mixed = None,
    max_size: given.MaxSize = None,
    speed_trials: given.SpeedTrials = None,
    plan: given.Plan = None,
    save_plan: given.SavePlan = None,
    target: given.Target = None,
    calibration_method: given.Calibration = None,
    bias_correction: given.Bias = None,
    rounding: given.Round = None,
    equalize: given.Equalize = None,
    distill: given.Distill = None,
    distill_checkpoint: given.DistillCheckpoint = None,
    adversarial_margin: given.AdversarialMargin = None,
    generator: given.Generator = None,
    low_pass: given.LowPass = None,
    samples: given.Samples = None,
    effort: given.EffortOption = None,
    time_budget: given.TimeBudget = None,
    memory: given.Memory = None,
    device: given.DeviceOption = None,
    seed: given.Seed = None,
    calib: given.Calib = None,
    save_calib: given.SaveCalib = None,
    checkpoint: given.Checkpoint = None,
    bn_stats: given.BnStats = None,
    input_shape: given.InputShape = None,
    mean: given.Mean = None,
    std: given.Std = None,
    input_range: given.InputRange = None,
    data: given.Data = None,
    min_agreement: given.MinAgreement = None,
    report: given.ReportPage = None,
    json_wanted: given.Json = False,
    config: given.ConfigFile = None,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    version: Version = False,
) -> None:
    """Quantize a trained float ONNX model without any data, and prove the result in ONNX Runtime."""
    with guarded(json_wanted, quiet, verbose) as progress:
        settings = build_config(context.params)
        result = _compile(model, output, settings, calib, save_calib, plan, save_plan, data, report, progress)
    _answer(result, settings, report, json_wanted, quiet)
    raise typer.Exit(GATE_MISSED if result.gate_missed else 0)


def _compile(
    model: Path,
    output: Path | None,
    settings: CompileConfig,
    calib: Path | None,
    save_calib: Path | None,
    plan: Path | None,
    save_plan: Path | None,
    data: Path | None,
    page: Path | None,
    progress: Progress,
) -> "CompileResult":
    """Read what is given beside the settings, compile, and keep what is asked for."""
    if save_calib is not None and calib is not None:
        raise ConfigError("--save-calib keeps synthetic data, but --calib brings its own: leave one out")
    for kept in (save_calib, save_plan):
        if kept is not None:
            require_folder(kept)
    from zsq_compile.reporting.html import require_page, write_page

    if page is not None:
        require_page(page)
    from zsq_compile.compiler import compile_model
    from zsq_compile.files import read_arrays, write_arrays
    from zsq_compile.quantization.plan_file import read_plan, write_plan
    from zsq_compile.stages.calibration_data import sample_arrays

    result = compile_model(
        model,
        output,
        settings,
        calibration=None if calib is None else read_arrays(calib),
        data=data,
        given_plan=None if plan is None else read_plan(plan),
        samples_kept=save_calib is not None,
        pictures_wanted=page is not None,
        started=_STARTED,
        progress=progress,
    )
    if save_calib is not None and result.synthetic is not None:
        write_arrays(save_calib, sample_arrays(result.synthetic.inputs, result.synthetic.labels))
    if save_plan is not None:
        write_plan(save_plan, result.plan)
    if page is not None:
        write_page(page, result.report)
    return result


@synth_app.command(epilog=_EXIT_CODES)
def synth_command(
    context: typer.Context,
    model: given.Model,
    output: given.ArraysOutput = None,
    gallery: given.Gallery = None,
    bits: given.Bits = None,
    act_bits: given.ActBits = None,
    generator: given.Generator = None,
    classes: given.Classes = None,
    low_pass: given.LowPass = None,
    samples: given.Samples = None,
    effort: given.EffortOption = None,
    device: given.DeviceOption = None,
    seed: given.Seed = None,
    checkpoint: given.Checkpoint = None,
    bn_stats: given.BnStats = None,
    input_shape: given.InputShape = None,
    mean: given.Mean = None,
    std: given.Std = None,
    input_range: given.InputRange = None,
    json_wanted: given.Json = False,
    config: given.ConfigFile = None,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
) -> None:
    """Make calibration data for a float ONNX model out of the model alone, for any quantizer."""
    path = output or model.with_name(f"{model.stem}.calib.npz")
    with guarded(json_wanted, quiet, verbose) as progress:
        require_folder(path)
        settings = build_config(context.params)
        require_widths_used(settings, context.params)
        from zsq_compile.compiler import synthesize
        from zsq_compile.files import write_arrays
        from zsq_compile.stages.calibration_data import sample_arrays

        made = synthesize(model, settings, gallery=gallery, samples_kept=True, progress=progress)
        write_arrays(path, sample_arrays(made.inputs, made.labels))
    shapes = {name: list(tensor.shape) for name, tensor in made.inputs.items()}
    if json_wanted:
        drawn = {} if gallery is None else {"gallery": str(gallery)}
        print_json({"output": str(path), **drawn, "algorithm": made.algorithm, "inputs": shapes, "exit_code": 0})
    elif quiet:
        typer.echo(path)
    else:
        typer.echo(f"{made.algorithm}: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}")
        typer.echo(f"written to {path}")
        if gallery is not None:
            typer.echo(f"shown in {gallery}")


@harvest_app.command(epilog=_EXIT_CODES)
def harvest_command(
    context: typer.Context,
    model: given.Model,
    output: given.StatisticsOutput = None,
    input_shape: given.InputShape = None,
    json_wanted: given.Json = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
) -> None:
    """Keep what batch normalisation remembers of the training data, for --bn-stats and a model where it is folded."""
    path = output or model.with_name(f"{model.stem}.stats.npz")
    with guarded(json_wanted, quiet, verbose) as progress:
        require_folder(path)
        settings = build_config(context.params)
        from zsq_compile.batchnorm.known_statistics import keep_statistics

        made = keep_statistics(model, path, progress, input_shapes=settings.input.shapes)
    if json_wanted:
        values = [norm.entry.output for norm in made.norms]
        print_json({"output": str(path), "model_sha256": made.model_sha256, "values": values, "exit_code": 0})
    elif quiet:
        typer.echo(path)
    else:
        typer.echo(f"{len(made.norms)} BatchNormalizations written to {path}")


def _answer(
    result: "CompileResult", settings: CompileConfig, page: Path | None, json_wanted: bool, quiet: bool
) -> None:
    if json_wanted:
        code = GATE_MISSED if result.gate_missed else 0
        print_json({**result.report.to_json(), "gate_missed": result.gate_missed, "exit_code": code})
    elif quiet:
        typer.echo(result.path)
    else:
        from zsq_compile.cli.result_table import print_result

        print_result(Console(), result)
        if page is not None:
            typer.echo(f"report in {page}")
    if result.gate_missed:
        agreement = result.report.expected_agreement
        got = "the model has no output with classes" if agreement is None else f"it is {agreement:.4f}"
        typer.echo(f"--min-agreement {settings.min_agreement} was missed: {got}; {result.path} was written", err=True)
