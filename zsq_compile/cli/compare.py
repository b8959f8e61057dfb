"""``zsq-compile compare``: one float model, every way to quantize it, one table."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import zsq_compile.cli.options as given
from zsq_compile.cli.command import SETTINGS, guarded, print_json
from zsq_compile.cli.overrides import build_config
from zsq_compile.config.compile import CompileConfig
from zsq_compile.progress import Progress

if TYPE_CHECKING:
    from zsq_compile.comparison.result import Comparison

compare_app = typer.Typer(add_completion=False, context_settings=SETTINGS)

_STARTED = time.perf_counter()  # importing torch takes seconds, which a time budget counts
_GATE_MISSED = 4
_EPILOG = (
    "A way of quantizing that fails is a row with its reason, and no error. Exit codes: 0 done; 4 --min-agreement "
    "missed by ours on the synthetic samples held out; the others are those of zsq-compile --help."
)
_DATA, _OUTPUT = "Calibration data", "Result"

Data = Annotated[
    Path | None,
    typer.Option(
        help="Real samples to judge all files on: a folder with labels.csv, with a folder per class, with pictures "
        "alone or with test_data_set_*/input_*.pb; or an .npz file with images (and labels), or with network inputs.",
        metavar="DIR|FILE.npz",
        show_default="synthetic samples held out",
        rich_help_panel=_OUTPUT,
    ),
]
CalibData = Annotated[
    Path | None,
    typer.Option(
        help="Real samples to calibrate onnxruntime's quantizer on, in the same forms; ours takes none.",
        metavar="DIR|FILE.npz",
        rich_help_panel=_DATA,
    ),
]
CalibSamples = Annotated[
    int | None,
    typer.Option(
        help="Samples that onnxruntime's quantizer is calibrated on.",
        show_default="256, or as many as fit into memory",
        rich_help_panel=_DATA,
    ),
]
With = Annotated[
    list[Path] | None,
    typer.Option("--with", help="Another quantized file of the same model; once for each.", metavar="FILE.onnx"),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder to keep all files in.",
        metavar="FOLDER",
        show_default="none is kept",
        rich_help_panel=_OUTPUT,
    ),
]


@compare_app.command(epilog=_EPILOG)
def compare_command(
    context: typer.Context,
    model: given.Model,
    data: Data = None,
    calib_data: CalibData = None,
    calib_samples: CalibSamples = None,
    others: With = None,
    output: Folder = None,
    bits: given.Bits = None,
    act_bits: given.ActBits = None,
    edge_bits: given.EdgeBits = None,
    mixed: given.Mixed = None,
    max_size: given.MaxSize = None,
    speed_trials: given.SpeedTrials = None,
    target: given.Target = None,
    calibration_method: given.Calibration = None,
    bias_correction: given.Bias = None,
    rounding: given.Round = None,
    equalize: given.Equalize = None,
    distill: given.Distill = None,
    generator: given.Generator = None,
    low_pass: given.LowPass = None,
    samples: given.Samples = None,
    effort: given.EffortOption = None,
    time_budget: given.TimeBudget = None,
    memory: given.Memory = None,
    device: given.DeviceOption = None,
    seed: given.Seed = None,
    checkpoint: given.Checkpoint = None,
    bn_stats: given.BnStats = None,
    input_shape: given.InputShape = None,
    mean: given.Mean = None,
    std: given.Std = None,
    input_range: given.InputRange = None,
    min_agreement: given.MinAgreement = None,
    json_wanted: given.Json = False,
    config: given.ConfigFile = None,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
) -> None:
    """Quantize a float ONNX model here and with onnxruntime's own quantizer, and measure all files side by side."""
    with guarded(json_wanted, quiet, verbose) as progress:
        settings = build_config(context.params)
        made = _compared(model, settings, data, calib_data, calib_samples, tuple(others or ()), output, progress)
    _answer(made, settings, json_wanted)
    raise typer.Exit(_GATE_MISSED if made.gate_missed else 0)


def _compared(
    model: Path,
    settings: CompileConfig,
    data: Path | None,
    calib_data: Path | None,
    calib_samples: int | None,
    others: tuple[Path, ...],
    folder: Path | None,
    progress: Progress,
) -> "Comparison":
    from zsq_compile.comparison.compare import compare_models

    return compare_models(
        model,
        settings,
        data=data,
        calib_data=calib_data,
        others=others,
        folder=folder,
        calib_samples=calib_samples,
        started=_STARTED,
        progress=progress,
    )


def _answer(made: "Comparison", settings: CompileConfig, json_wanted: bool) -> None:
    if json_wanted:
        print_json({**made.to_json(), "exit_code": _GATE_MISSED if made.gate_missed else 0})
    else:
        from zsq_compile.cli.comparison_table import print_comparison

        print_comparison(Console(), made)
    if made.gate_missed:
        got = "unknown" if made.expected_agreement is None else f"{made.expected_agreement:.4f}"
        typer.echo(f"--min-agreement {settings.min_agreement} was missed by ours: it is {got}", err=True)
