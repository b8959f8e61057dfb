"""What a user can decide: frozen values, one per stage, checked where they are made.

The same values are built by the command line, by a TOML file (``read_config``) and by Python callers, so a wrong value
is refused in the same words on all three ways in. Each stage receives its own section only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from zsq_compile.config.checks import (
    Bounds,
    Shape,
    require_choice,
    require_command,
    require_mixed_goal,
    require_number,
    require_one_source,
    require_paths,
    require_patterns,
    require_shapes,
)
from zsq_compile.config.conditional_generators import AdadfqConfig, ConditionalConfig, GdfqConfig, ZsCganConfig
from zsq_compile.config.distillation import DistillConfig, require_source
from zsq_compile.config.fields import (
    DATA,
    INPUT,
    PRECISION,
    RESULT,
    RUN,
    Count,
    Option,
    Positive,
    Share,
    check_fields,
)
from zsq_compile.config.generators import DsgConfig, IntraqConfig, NoiseConfig, PixelsConfig, PriorConfig, ZeroqConfig
from zsq_compile.config.genie import GenieConfig
from zsq_compile.config.units import parse_bytes, parse_layer_bits, parse_named_shape, parse_numbers, parse_seconds
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.task import TaskKind

Effort = Literal["fast", "balanced", "best"]
CalibrationMethod = Literal["minmax", "percentile", "mse", "entropy"]
BiasCorrection = Literal["auto", "analytic", "empirical", "none"]
WeightScales = Literal["minmax", "mse"]
Device = Literal["auto", "cpu", "cuda"]
KeepQuality = Literal["off", "fast", "balanced", "best"]
Rounding = Literal["nearest", "squant", "gptq", "adaround", "genie-m", "lsq"]
LearnedRounding = Literal["adaround", "genie-m", "lsq"]

WIDTHS = (8, 4, 3, 2)
"""Widths in bits that weights and activations can be given."""

Width = Annotated[int, WIDTHS]
LayerBits = int | Literal["float"]

Numbers = Annotated[tuple[float, ...], Option(panel=INPUT, metavar="A,B,C", default="inferred", read=parse_numbers)]


GeneratorConfig = (
    NoiseConfig
    | PriorConfig
    | PixelsConfig
    | GenieConfig
    | ZeroqConfig
    | DsgConfig
    | IntraqConfig
    | ZsCganConfig
    | GdfqConfig
    | AdadfqConfig
)
"""How calibration data is made; the type chooses the algorithm."""

GENERATORS: Mapping[str, type[GeneratorConfig]] = {
    "noise": NoiseConfig,
    "prior": PriorConfig,
    "pixels": PixelsConfig,
    "genie": GenieConfig,
    "zeroq": ZeroqConfig,
    "dsg": DsgConfig,
    "intraq": IntraqConfig,
    "zs-cgan": ZsCganConfig,
    "gdfq": GdfqConfig,
    "adadfq": AdadfqConfig,
}
"""Generators by the name that the command line and ``[generator] kind`` use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InputConfig:
    """What the network expects at its inputs; whatever is left out is read from the model or inferred.

    Attributes:
        shapes: sizes to work with for an input whose sizes the model leaves open, ? for one to be chosen; once for each
            such input. The written file keeps them open. In Python by input name, with None for ?.
        fix_shapes: write the sizes of ``--input-shape`` into the file, which takes no others then.
        mean: mean of each channel of pixels in 0..1, such as .485,.456,.406, or of a signal's samples as the network
            takes them; given if and only if ``std`` is. A mean above 1 is taken as one of pixels in 0..255.
        std: standard deviation of each channel of pixels in 0..1, such as .229,.224,.225, or of a signal's samples as
            the network takes them; given if and only if ``mean`` is.
        input_range: input values of black and white pixels, such as 0,255 or -1,1, or the range of a signal's samples;
            instead of ``mean`` and ``std``.
        like: one or a few real inputs without labels: a picture, a .wav, an .npy or .npz file, or a folder of these;
            once for each. They settle how inputs are prepared, and a share of the calibration data is made from them.

    """

    shapes: Annotated[
        Mapping[str, Shape],
        Option(panel=INPUT, names=("--input-shape",), metavar="NAME:1x3x224x224", read=parse_named_shape),
    ] = field(default_factory=dict)
    fix_shapes: Annotated[bool, Option(panel=INPUT)] = False
    mean: Numbers | None = None
    std: Numbers | None = None
    input_range: Annotated[
        tuple[float, float] | None, Option(panel=INPUT, metavar="LOW,HIGH", default="inferred", read=parse_numbers)
    ] = None
    like: Annotated[tuple[str, ...], Option(panel=INPUT, metavar="FILE|DIR")] = ()

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        require_shapes(self.shapes, fix=self.fix_shapes)
        if (self.mean is None) != (self.std is None):
            raise ConfigError("input.mean and input.std describe one normalisation: give both or neither")
        if self.mean is not None and self.std is not None:
            self._check_normalisation(self.mean, self.std)
        if self.input_range is not None:
            self._check_range(self.input_range)
        require_paths("--like", self.like)

    def _check_normalisation(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        if self.input_range is not None:
            raise ConfigError("input.input_range says the same as input.mean and input.std: give one or the other")
        if not mean or len(mean) != len(std):
            raise ConfigError(
                f"input.mean and input.std need one number per channel each, got {len(mean)} and {len(std)}"
            )
        for position, value in enumerate(mean):
            require_number(f"input.mean[{position}]", value, Bounds())
        for position, value in enumerate(std):
            require_number(f"input.std[{position}]", value, Bounds(above=0.0))

    @staticmethod
    def _check_range(input_range: tuple[float, float]) -> None:
        if len(input_range) != 2:
            raise ConfigError(f"input.input_range needs two numbers, lowest and highest, got {len(input_range)}")
        low, high = input_range
        require_number("input.input_range[0]", low, Bounds())
        require_number("input.input_range[1]", high, Bounds(above=low))


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationConfig:
    """How numbers become integers.

    Attributes:
        bits: bits of weights. 8 by default: no model that we know of loses from it.
        act_bits: bits of the activations that weights multiply; what is only added keeps 8. 8 by default: runtimes are
            fastest there; fewer bits save no time today.
        edge_bits: bits of the first and the last layer's weights, where that is more than ``bits``, and of the first
            layer's output, where that is more than ``act_bits``. What enters these layers keeps 8 bits. None, the
            default, is 8, because they often cost the most accuracy; ``mixed`` measures that, and keeps to a number
            only.
        calibration_method: how activation ranges are chosen. ``mse`` by default: it gives up rare extremes where that
            lowers the total error.
        bias_correction: how the mean error of quantized weights is taken back out of the biases. ``auto`` uses the
            closed form where batch normalisation gives the moments and the calibration data where it does not. Blocks
            that are learned start from it, and learn their biases along.
        rounding: how weights become integers: ``gptq`` lets the other weights of a channel make up for each one's
            error; ``squant``, without data, only makes the errors of a channel cancel; ``adaround``, ``genie-m`` and
            ``lsq`` learn on from ``gptq``, block by block, below 8 bits. ``nearest`` looks at no data either; gptq
            looks at the second moments of the layer's inputs. ``adaround`` learns the codes, ``genie-m`` codes and
            scales, both by soft rounding, ``lsq`` codes and scales straight through the rounding. None, the default,
            takes gptq at the effort ``fast`` and lsq above.
        equalize: even out channel ranges between layers before anything is quantized; for targets with one weight scale
            per tensor. Off by default: with a scale per channel it changed agreement by less than the noise on four
            networks, and lost a little of every layer's accuracy.
        even_channels: even out, by powers of two, the channels between two layers where one scale for all of them would
            lose most of what they hold. The float network computes the same, and other networks keep their bytes.
        weight_scales: how the scale of each output channel is chosen: ``mse`` searches it, ``minmax`` takes the
            channel's largest weight.
        quantize_outputs: also quantize the graph outputs. Off by default: quantized logits clip the top classes.
        exclude: what is to stay float: a pattern of names of layers or values, or of operators, such as '/head/*' or
            Softmax; once for each. Excluded layers keep float weights.
        layer_bits: bits of the weights of single layers, or float: a pattern as of ``exclude``, =, and the bits; once
            for each. The last one that fits a layer holds. In Python by pattern.

    """

    bits: Annotated[Width, Option(panel=PRECISION)] = 8
    act_bits: Annotated[Width, Option(panel=PRECISION)] = 8
    edge_bits: Annotated[Width | None, Option(panel=PRECISION, default="8; none with ``mixed``")] = None
    calibration_method: Annotated[CalibrationMethod, Option(panel=PRECISION)] = "mse"
    bias_correction: Annotated[BiasCorrection, Option(panel=PRECISION)] = "auto"
    rounding: Annotated[Rounding | None, Option(panel=PRECISION, default="gptq at the effort fast, else lsq")] = None
    equalize: Annotated[bool, Option(panel=PRECISION)] = False
    even_channels: Annotated[bool, Option(panel=PRECISION, names=("--even-channels/--no-even-channels",))] = True
    weight_scales: WeightScales = "mse"
    quantize_outputs: bool = False
    exclude: Annotated[tuple[str, ...], Option(panel=PRECISION, metavar="PATTERN")] = ()
    layer_bits: Annotated[
        Mapping[str, LayerBits],
        Option(panel=PRECISION, metavar="PATTERN=8|float", read=parse_layer_bits),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        check_fields(self, "quantization")
        require_patterns("exclude", self.exclude)
        require_patterns("layer_bits", tuple(self.layer_bits))
        for pattern, bits in self.layer_bits.items():
            require_choice(f"quantization.layer_bits of {pattern}", bits, (*WIDTHS, "float"))


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileConfig:
    """All settings of one compilation.

    Attributes:
        input: what the network expects at its inputs.
        generator: how calibration data is made: ``auto`` takes pixels where the model has batch normalisation and prior
            where it has none; zeroq, dsg and intraq are published baselines; zs-cgan, gdfq and adadfq learn one network
            for all images and know their classes, and adadfq learns against a quantized network. None, the default, is
            ``auto``.
        quantization: how numbers become integers.
        distill: train the whole quantized network towards the float one at the end; worth its time below 4 bits. None,
            the default, does not.
        checkpoint: file of the trained network's tensors (a state_dict, or safetensors), which gives the batch
            normalisation statistics that the export folded away; no code in the file is run. Not together with
            ``bn_stats``.
        bn_stats: file that ``zsq-compile harvest`` wrote from the same network before its batch normalisation was
            folded away, which gives the statistics. Not together with ``checkpoint``.
        target: what the model is to run on: a name, a target file of your own, or auto, the default, for this machine.
        samples: number of calibration samples to make. None, the default, takes it from the effort.
        low_pass: frequency where a Gaussian low-pass filter over the finished images lets 61 % of the amplitude
            through; lower is stronger, 0.36 is usual. As SynQ has it, which takes 0.36 at 224 pixels. None, the
            default, is no filter.
        confident_share: share of the samples, 0 to 1, that are moved until a classifier is sure of what it sees in
            them, so that its outputs reach farther, as on real images. None, the default, is an eighth where the data
            goes to other quantizers (``synth``), which quantize outputs, and 0 in a compilation, which leaves them
            float. If given, it is also the share that makes silent detectors and recognisers answer: three eighths, and
            none of networks that answer anyway.
        effort: time against accuracy: ``fast`` only computes, ``balanced`` and ``best`` also learn below 8 bits.
        time_budget: time for the whole compilation, such as 90s, 10m or 1h; learning takes what is left of it. In
            Python in seconds. None, the default, lets the effort decide, and only then do the same seeds give the same
            bytes.
        memory: activations held in memory while learning, such as 500M or 2G; more goes to temporary files. In Python
            in bytes.
        device: where data is made and where learning and distilling run: ``auto`` takes a CUDA device where there is
            one. All else runs on the processor.
        seed: start of all randomness: same seed, same machine, same bytes.
        min_agreement: least share, 0 to 1, of what the float model says (classes, boxes, masks, peaks, texts,
            decisions, integers) that must be kept, as estimated for real data (or counted on held-out samples where
            there is no estimate); below it, and where nothing could be counted, the file is written and the exit
            code is 4. ``mixed`` holds its trials against it on held-out samples.
        task: what the outputs are, which decides how two files are compared. None, the default, recognises it.
        keep_quality: what is left in float because 8 bits harm the outputs: nothing at ``off``, only what ruins them at
            ``fast``, until the noise changes next to nothing at ``balanced``, and until it changes nothing that can be
            measured at ``best``, whatever time it costs.
        metric: command that prints a number for a file, larger for a better one, such as 'python eval.py {model}'. No
            shell runs it, {model} becomes the path of a file, and the last number that it prints counts: in the report
            for both files, and instead of decisions in ``mixed`` and ``min_agreement``, which is 0.99 then.
        mixed: choose the bits of every layer, ``bits`` at most: the least output noise within ``max_size``, or without
            it the smallest file that keeps ``min_agreement``.
        max_size: with ``mixed``: most bytes of the file, or its share of the float file.
        speed_trials: where the file is slower than the float one, time other forms of it and keep the fastest. These
            are fewer layers in integers, signed activations, or weights alone. The clock decides then, so that the same
            seed need not give the same bytes.

    """

    input: InputConfig = field(default_factory=InputConfig)
    generator: Annotated[GeneratorConfig | None, Option(panel=DATA, words=("auto", *GENERATORS), default="auto")] = None
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    distill: Annotated[
        DistillConfig | None, Option(panel=PRECISION, names=("--distill/--no-distill",), default="off")
    ] = None
    checkpoint: Annotated[str | None, Option(panel=DATA, metavar="FILE.pt|.th|.safetensors")] = None
    bn_stats: Annotated[str | None, Option(panel=DATA, metavar="FILE.npz")] = None
    target: Annotated[str, Option(panel=PRECISION, metavar="NAME|FILE.toml|auto")] = "auto"
    samples: Annotated[Count | None, Option(panel=DATA, default="from the effort")] = None
    low_pass: Annotated[Positive | None, Option(panel=DATA, metavar="CYCLES_PER_PIXEL", default="off")] = None
    confident_share: Share | None = None
    effort: Annotated[Effort, Option(panel=DATA)] = "balanced"
    time_budget: Annotated[
        Positive | None, Option(panel=RUN, metavar="TIME", default="from the effort", read=parse_seconds)
    ] = None
    memory: Annotated[int, Bounds(low=0), Option(panel=RUN, metavar="SIZE", default="256 MiB", read=parse_bytes)] = (
        256 << 20
    )
    device: Annotated[Device, Option(panel=RUN)] = "auto"
    seed: Annotated[int, Bounds(low=0, high=(1 << 63) - 1), Option(panel=DATA)] = 0
    min_agreement: Annotated[
        float | None, Bounds(low=0.0, high=1.0, hint="97 % is written 0.97"), Option(panel=RESULT)
    ] = None
    task: Annotated[TaskKind | None, Option(panel=RESULT, default="recognised")] = None
    keep_quality: Annotated[KeepQuality, Option(panel=PRECISION)] = "balanced"
    metric: Annotated[str | None, Option(panel=RESULT, metavar="COMMAND")] = None
    mixed: Annotated[bool, Option(panel=PRECISION)] = False
    max_size: Annotated[str | None, Option(panel=PRECISION, metavar="200k|1.5M|0.15")] = None
    speed_trials: Annotated[bool, Option(panel=RESULT, names=("--speed-trials/--no-speed-trials",))] = True

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        check_fields(self)
        require_command(self.metric)
        if not self.target:
            raise ConfigError("target needs the name of a target or the path of a target file, got an empty text")
        if self.effort == "fast" and self.quantization.rounding in get_args(LearnedRounding):
            raise ConfigError(
                f"quantization.rounding {self.quantization.rounding} learns, and the effort fast only computes: take "
                "the effort balanced, or the rounding gptq"
            )
        require_one_source(self.checkpoint, self.bn_stats)
        require_mixed_goal(self.mixed, self.max_size, self.least_kept)
        if self.distill is not None and self.distill.steps is None and self.effort == "fast" and not self.time_budget:
            raise ConfigError(
                "distill (--distill) has no steps at the effort fast: take another, or give distill.steps"
            )

    def require_possible(self) -> None:
        """Raise ConfigError where distillation wants samples that this generator cannot make meanwhile.

        Not asked when the value is made: a configuration file may leave the generator to the command line.
        """
        if not isinstance(self.generator, ConditionalConfig):
            require_source(self.distill, "take --generator zs-cgan, gdfq or adadfq")
        if self.low_pass is not None:
            require_source(self.distill, "low_pass filters finished images only, leave it out")

    @property
    def least_kept(self) -> float | None:
        """Share of the float model's decisions, or of its metric, that is to be kept; 0.99 of a metric without word."""
        return 0.99 if self.min_agreement is None and self.metric is not None else self.min_agreement

    @property
    def learned_rounding(self) -> LearnedRounding | None:
        """How codes are learned; None where nothing is learned."""
        chosen = self.quantization.rounding or ("gptq" if self.effort == "fast" else "lsq")
        return next((name for name in get_args(LearnedRounding) if name == chosen), None)
