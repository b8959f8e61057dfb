"""``zsq-compile synth``: calibration data for any quantizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from zsq_compile.cli.command import Answer, Call, Command
from zsq_compile.cli.options import CONFIGURED, ConfiguredOptions
from zsq_compile.cli.overrides import generator_name
from zsq_compile.config.checks import require_folder
from zsq_compile.config.conditional_generators import AdadfqConfig
from zsq_compile.config.fields import RESULT, Option
from zsq_compile.errors import ConfigError

_WIDTHS = ("bits", "act_bits")
_CONFIGURED = (
    *_WIDTHS,
    *("generator", "classes", "low_pass", "samples", "effort", "device", "seed"),
    *("checkpoint", "bn_stats", "input_shape", "mean", "std", "input_range", "like"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthOptions(ConfiguredOptions):
    """What making data takes beside its settings.

    Attributes:
        output: the .npz file to write, one array per network input; and labels, where the generator knows them.
        gallery: show up to 64 of the images in one picture, with the class that the network sees in each, and the class
            asked for, where there is one.

    """

    output: Annotated[
        Path | None,
        Option(panel=RESULT, names=("--output", "-o"), default="MODEL.calib.npz beside the input"),
    ] = None
    gallery: Annotated[Path | None, Option(panel=RESULT, metavar="FILE.png")] = None


def synth_command(call: Call[SynthOptions]) -> Answer:
    """Make calibration data for a float ONNX model out of the model alone, for any quantizer."""
    options = call.options
    path = options.output or options.model.with_name(f"{options.model.stem}.calib.npz")
    require_folder(path)
    _require_widths_used(call)
    from zsq_compile.compiler import synthesize
    from zsq_compile.files import write_arrays
    from zsq_compile.stages.calibration_data import sample_arrays

    made = synthesize(options.model, call.config, gallery=options.gallery, samples_kept=True, progress=call.progress)
    write_arrays(path, sample_arrays(made.inputs, made.labels))
    shapes = {name: list(tensor.shape) for name, tensor in made.inputs.items()}
    drawn = {} if options.gallery is None else {"gallery": str(options.gallery)}
    return Answer(
        plain=lambda: {"output": str(path), **drawn, "algorithm": made.algorithm, "inputs": shapes},
        brief=(path,),
        lines=(
            f"{made.algorithm}: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}",
            f"written to {path}",
            *(f"shown in {picture}" for picture in drawn.values()),
        ),
    )


def _require_widths_used(call: Call[SynthOptions]) -> None:
    """Refuse widths, as nothing is quantized here, where the generator learns against no quantized network either."""
    widths = [CONFIGURED[name].word for name in _WIDTHS if name in call.given]
    if widths and not isinstance(call.config.generator, AdadfqConfig):
        raise ConfigError(
            f"synth takes {' and '.join(widths)} only for the quantized network that adadfq learns against, and the "
            f"generator {generator_name(call.config.generator)} learns against none: give --generator adadfq, or leave "
            f"{'it' if len(widths) == 1 else 'them'} out"
        )


COMMAND = Command(own=SynthOptions, configured=_CONFIGURED, work=synth_command)
