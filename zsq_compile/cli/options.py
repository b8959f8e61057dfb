"""The options of the command line, each with its help.

An option that was not given is None and leaves the configuration file's value, or the default, as it is.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zsq_compile.config.compile import BiasCorrection, CalibrationMethod, Device, Effort, Rounding

_PRECISION, _DATA, _INPUT, _OUTPUT, _RUN = "Precision", "Calibration data", "Network input", "Result", "Run"

GeneratorName = Literal[
    "auto", "noise", "prior", "pixels", "genie", "zeroq", "dsg", "intraq", "zs-cgan", "gdfq", "adadfq"
]

Model = Annotated[Path, typer.Argument(help="The float ONNX model.", metavar="MODEL.onnx", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The quantized model.",
        show_default="MODEL.w8a8.onnx beside the input",
        rich_help_panel=_OUTPUT,
    ),
]
ArraysOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The .npz file to write, one array per network input; and labels, where the generator knows them.",
        show_default="MODEL.calib.npz beside the input",
        rich_help_panel=_OUTPUT,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Real images with labels, only to measure the result: a folder with labels.csv or a folder per class, "
        "or an .npz file with images and labels.",
        metavar="DIR|FILE.npz",
        rich_help_panel=_OUTPUT,
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        help="Least share, 0 to 1, of decisions that must be those of the float model, as estimated for real data (or "
        "counted on held-out samples where there is no estimate); below it the file is written and the exit code is 4.",
        rich_help_panel=_OUTPUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.", rich_help_panel=_OUTPUT)
]
Bits = Annotated[
    int | None,
    typer.Option(help="Bits of weights.", metavar="8|4|3|2", show_default="8", rich_help_panel=_PRECISION),
]
ActBits = Annotated[
    int | None,
    typer.Option(help="Bits of activations.", metavar="8|4|3|2", show_default="8", rich_help_panel=_PRECISION),
]
EdgeBits = Annotated[
    int | None,
    typer.Option(
        help="Bits of the first and last layer's weights, where that is more than --bits.",
        metavar="8|4|3|2",
        show_default="8; none with --mixed",
        rich_help_panel=_PRECISION,
    ),
]
Mixed = Annotated[
    bool | None,
    typer.Option(
        "--mixed",
        help="Choose the bits of every layer, --bits at most, by what they cost: the least harm within --max-size, or "
        "without it the smallest file that keeps --min-agreement.",
        show_default=False,
        rich_help_panel=_PRECISION,
    ),
]
SpeedTrials = Annotated[
    bool | None,
    typer.Option(
        "--speed-trials/--no-speed-trials",
        help="Where the file is slower than the float one, time other forms of it and keep the fastest.",
        show_default="on",
        rich_help_panel=_OUTPUT,
    ),
]
MaxSize = Annotated[
    str | None,
    typer.Option(
        help="With --mixed: most bytes of the file, or its share of the float file.",
        metavar="200k|1.5M|0.15",
        rich_help_panel=_PRECISION,
    ),
]
Plan = Annotated[
    Path | None,
    typer.Option(
        help="Widths of single layers and values, as --save-plan writes them; they win over the other options.",
        metavar="FILE.json",
        rich_help_panel=_PRECISION,
    ),
]
SavePlan = Annotated[
    Path | None,
    typer.Option(help="Keep the width of every layer and value.", metavar="FILE.json", rich_help_panel=_PRECISION),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="What the model is to run on: a name, a target file of your own, or auto for this machine.",
        metavar="NAME|FILE.toml|auto",
        show_default="ort_cpu",
        rich_help_panel=_PRECISION,
    ),
]
Calibration = Annotated[
    CalibrationMethod | None,
    typer.Option(help="How activation ranges are chosen.", show_default="mse", rich_help_panel=_PRECISION),
]
Bias = Annotated[
    BiasCorrection | None,
    typer.Option(
        help="How the mean error of rounding is taken out of the biases.",
        show_default="auto",
        rich_help_panel=_PRECISION,
    ),
]
Round = Annotated[
    Rounding | None,
    typer.Option(
        help="How weights become integers: gptq lets the other weights of a channel make up for each one's error; "
        "squant, without data, only makes the errors of a channel cancel; adaround, genie-m and lsq learn on from "
        "gptq, block by block, below 8 bits.",
        show_default="gptq at the effort fast, else lsq",
        rich_help_panel=_PRECISION,
    ),
]
Equalize = Annotated[
    bool | None,
    typer.Option(
        "--equalize",
        help="Even out channel ranges between layers first; for targets with one weight scale per tensor.",
        show_default="off",
        rich_help_panel=_PRECISION,
    ),
]
Distill = Annotated[
    bool | None,
    typer.Option(
        "--distill/--no-distill",
        help="Train the whole quantized network towards the float one at the end; worth its time below 4 bits.",
        show_default="off",
        rich_help_panel=_PRECISION,
    ),
]
DistillCheckpoint = Annotated[
    Path | None,
    typer.Option(
        help="Keep the state of --distill here, every few minutes and on Ctrl-C; a file that is there is continued.",
        metavar="FILE",
        rich_help_panel=_RUN,
    ),
]
AdversarialMargin = Annotated[
    bool | None,
    typer.Option(
        "--adversarial-margin",
        help="With --distill and a generator of classes, such as gdfq: push samples that the quantized network copies "
        "too well, up to a random margin.",
        show_default="off",
        rich_help_panel=_PRECISION,
    ),
]
Generator = Annotated[
    GeneratorName | None,
    typer.Option(
        help="How calibration data is made. auto: pixels where the model has batch normalisation, else prior. zeroq, "
        "dsg and intraq are published baselines; zs-cgan, gdfq and adadfq learn one network for all images, and "
        "know their classes; adadfq learns against a quantized network.",
        show_default="auto",
        rich_help_panel=_DATA,
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Draw these classes only, equally often, with zs-cgan, gdfq or adadfq; the file then holds their numbers "
        "as well, under the name labels.",
        metavar="A,B,C",
        show_default="all",
        rich_help_panel=_DATA,
    ),
]
LowPass = Annotated[
    float | None,
    typer.Option(
        help="Gaussian low-pass filter over the finished images, by the frequency where it lets through 61 %; lower is "
        "stronger, 0.36 is usual.",
        metavar="CYCLES_PER_PIXEL",
        show_default="off",
        rich_help_panel=_DATA,
    ),
]
Samples = Annotated[
    int | None, typer.Option(help="Calibration samples.", show_default="from the effort", rich_help_panel=_DATA)
]
EffortOption = Annotated[
    Effort | None,
    typer.Option("--effort", help="Time against accuracy.", show_default="balanced", rich_help_panel=_DATA),
]
TimeBudget = Annotated[
    str | None,
    typer.Option(
        help="Time for the whole compilation, such as 90s, 10m or 1h; learning takes what is left of it.",
        metavar="TIME",
        show_default="from the effort",
        rich_help_panel=_RUN,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Activations held in memory while learning, such as 500M or 2G; more goes to temporary files.",
        metavar="SIZE",
        show_default="2G",
        rich_help_panel=_RUN,
    ),
]
DeviceOption = Annotated[
    Device | None,
    typer.Option(
        "--device",
        help="Where data is made, and learning and --distill run. auto: on a CUDA device where there is one.",
        show_default="auto",
        rich_help_panel=_RUN,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Same seed, same machine: same bytes.", show_default="0", rich_help_panel=_DATA),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="The trained network's tensors (a state_dict, or safetensors): tells the statistics of batch "
        "normalisation that the export folded away. No code in the file is run.",
        metavar="FILE.pt|.th|.safetensors",
        rich_help_panel=_DATA,
    ),
]
BnStats = Annotated[
    Path | None,
    typer.Option(
        help="Likewise: a file that zsq-compile harvest wrote from the same network with batch normalisation.",
        metavar="FILE.npz",
        rich_help_panel=_DATA,
    ),
]
StatisticsOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The .npz file to write, for --bn-stats.",
        show_default="MODEL.stats.npz beside the input",
        rich_help_panel=_OUTPUT,
    ),
]
Calib = Annotated[
    Path | None,
    typer.Option(
        help="Calibrate on these network inputs instead of synthetic ones: an array per input, ready to feed.",
        metavar="FILE.npz",
        rich_help_panel=_DATA,
    ),
]
Gallery = Annotated[
    Path | None,
    typer.Option(
        help="Show up to 64 of the images in one picture, with the class that the network sees in each, and the class "
        "asked for, where there is one.",
        metavar="FILE.png",
        rich_help_panel=_OUTPUT,
    ),
]
ReportPage = Annotated[
    Path | None,
    typer.Option(
        "--report",
        help="One HTML page with the whole evidence: every layer, the data, the bytes, the times; it needs no network.",
        metavar="FILE.html",
        rich_help_panel=_OUTPUT,
    ),
]
SaveCalib = Annotated[
    Path | None,
    typer.Option(help="Keep the synthetic calibration data.", metavar="FILE.npz", rich_help_panel=_DATA),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        help="Sizes of an input that the model leaves open, ? for dynamic; once for each such input.",
        metavar="NAME:1x3x224x224",
        rich_help_panel=_INPUT,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean per channel of pixels in 0..1, such as .485,.456,.406.",
        metavar="A,B,C",
        show_default="inferred",
        rich_help_panel=_INPUT,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(help="Likewise, the standard deviation.", metavar="A,B,C", rich_help_panel=_INPUT),
]
InputRange = Annotated[
    str | None,
    typer.Option(
        help="Numbers that black and white become, such as 0,255 or -1,1; instead of --mean and --std.",
        metavar="LOW,HIGH",
        show_default="inferred",
        rich_help_panel=_INPUT,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file with the same settings; options given here win.",
        metavar="FILE.toml",
        rich_help_panel=_RUN,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors, and the path of the result.", rich_help_panel=_RUN)]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Details and times of the stages; tracebacks.", rich_help_panel=_RUN)
]
