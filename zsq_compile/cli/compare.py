"""``zsq-compile compare``: one float model, every way to quantize it, one table."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from zsq_compile.cli.command import GATE_MISSED, STARTED, Answer, Call, Command
from zsq_compile.cli.options import CONFIGURED, ConfiguredOptions
from zsq_compile.config.fields import DATA, RESULT, Option


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions(ConfiguredOptions):
    """What comparing takes beside its settings.

    Attributes:
        data: real inputs to judge all files on: a folder with labels.csv, with a folder per class, with pictures or
            sounds alone or with test_data_set_*/input_*.pb; a file of these; or an .npz file with images (and labels),
            or with network inputs.
        calib_data: real samples to calibrate onnxruntime's quantizer on, in the forms of ``data``; ours takes none.
        calib_samples: number of samples that onnxruntime's quantizer is calibrated on.
        others: another quantized file of the same model; once for each.
        output: folder to keep all files in.

    """

    data: Annotated[
        Path | None,
        Option(panel=RESULT, metavar="FILE|DIR", default="held-out synthetic samples"),
    ] = None
    calib_data: Annotated[Path | None, Option(panel=DATA, metavar="FILE|DIR")] = None
    calib_samples: Annotated[int | None, Option(panel=DATA, default="256, or as many as fit into memory")] = None
    others: Annotated[tuple[Path, ...], Option(names=("--with",), metavar="FILE.onnx")] = ()
    output: Annotated[
        Path | None,
        Option(panel=RESULT, names=("--output", "-o"), metavar="FOLDER", default="none is kept"),
    ] = None


def compare_command(call: Call[CompareOptions]) -> Answer:
    """Quantize a float ONNX model here and with onnxruntime's own quantizer, and measure all files side by side."""
    from zsq_compile.cli.comparison_table import print_comparison
    from zsq_compile.comparison.compare import compare_models
    from zsq_compile.stages.gate import describe_held

    options = call.options
    made = compare_models(
        options.model,
        call.config,
        data=options.data,
        calib_data=options.calib_data,
        others=tuple(options.others),
        folder=options.output,
        calib_samples=options.calib_samples,
        started=STARTED,
        progress=call.progress,
    )
    got = describe_held(made.agreement_estimate, made.held_agreement)
    complaint = f"--min-agreement {call.config.min_agreement} was missed by ours: {got}"
    return Answer(
        plain=made.to_json,
        table=partial(print_comparison, comparison=made),
        exit_code=GATE_MISSED if made.gate_missed else 0,
        complaint=complaint if made.gate_missed else None,
    )


COMMAND = Command(
    own=CompareOptions,
    configured=[name for name in CONFIGURED if name not in ("classes", "distill_checkpoint", "adversarial_margin")],
    work=compare_command,
    epilog="A way of quantizing that fails is a row with its reason, and no error. Exit codes: 0 done; 4 "
    "--min-agreement missed by ours on the held-out synthetic samples; the others are those of zsq-compile --help.",
)
