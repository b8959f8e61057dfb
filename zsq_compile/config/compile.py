"""What a user can decide: frozen values, one per stage, checked where they are made.

The same values are built by the command line, by a TOML file (``read_config``) and by Python callers, so a wrong value
is refused in the same words on all three ways in. Each stage receives its own section only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from zsq_compile.config.checks import (
    Shape,
    require_choice,
    require_count,
    require_mixed_goal,
    require_number,
    require_one_source,
    require_shape,
)
from zsq_compile.config.conditional_generators import AdadfqConfig, ConditionalConfig, GdfqConfig, ZsCganConfig
from zsq_compile.config.distillation import DistillConfig, require_source
from zsq_compile.config.generators import DsgConfig, IntraqConfig, ZeroqConfig
from zsq_compile.config.genie import GenieConfig
from zsq_compile.errors import ConfigError

Effort = Literal["fast", "balanced", "best"]
Distribution = Literal["normal", "uniform"]
CalibrationMethod = Literal["minmax", "percentile", "mse", "entropy"]
BiasCorrection = Literal["auto", "analytic", "empirical", "none"]
WeightScales = Literal["minmax", "mse"]
Device = Literal["auto", "cpu", "cuda"]
Rounding = Literal["nearest", "squant", "gptq", "adaround", "genie-m", "lsq"]
LearnedRounding = Literal["adaround", "genie-m", "lsq"]

WIDTHS = (8, 4, 3, 2)
"""Widths in bits that weights and activations can be given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """Calibrate on random numbers: the baseline that every other generator has to beat.

    Attributes:
        distribution: ``normal`` draws pixels around the middle of the input range and cuts them to it, ``uniform``
            draws them evenly from it. Normal by default: it is what the literature calls noise calibration.

    """

    distribution: Distribution = "normal"

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        require_choice("generator.distribution", self.distribution, get_args(Distribution))


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorConfig:
    """Calibrate on procedural images with natural statistics; needs no batch normalisation in the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelsConfig:
    """Calibrate on images whose pixels are optimised until the network's batch normalisation statistics come out.

    Attributes:
        iterations: optimiser steps per batch. None, the default, takes them from the effort and the cost of the model.
        learning_rate: step of the optimiser, in units of a pixel range of 1. 0.05 crosses the range in about 20 steps,
            slow enough for the deep layers' statistics to follow.
        class_weight: weight of a classification loss towards random classes; 0, the default, leaves classes alone,
            because a network that is no classifier has none.
        batch_size: images optimised together; their joint statistics are matched. None, the default, takes it from the
            image size, so that memory stays bounded.

    """

    iterations: int | None = None
    learning_rate: float = 0.05
    class_weight: float = 0.0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        require_count("generator.iterations", self.iterations)
        require_count("generator.batch_size", self.batch_size)
        require_number("generator.learning_rate", self.learning_rate, above=0.0)
        require_number("generator.class_weight", self.class_weight, low=0.0)


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

SynthesisConfig = GeneratorConfig

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
        shapes: sizes by input name, batch first, None for dynamic. Needed only where the model leaves sizes open.
        mean: per channel, subtracted from pixels in [0, 1]. None lets the contract be inferred.
        std: per channel, divides what is left; given if and only if ``mean`` is.
        input_range: (lowest, highest) number that a pixel becomes, such as (0, 255) or (-1, 1); instead of mean and
            std.

    """

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        for name, shape in self.shapes.items():
            require_shape(f"input.shapes.{name}", shape)
        if (self.mean is None) != (self.std is None):
            raise ConfigError("input.mean and input.std describe one normalisation: give both or neither")
        if self.mean is not None and self.std is not None:
            self._check_normalisation(self.mean, self.std)
        if self.input_range is not None:
            self._check_range(self.input_range)

    def _check_normalisation(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        if self.input_range is not None:
            raise ConfigError("input.input_range says the same as input.mean and input.std: give one or the other")
        if not mean or len(mean) != len(std):
            raise ConfigError(
                f"input.mean and input.std need one number per channel each, got {len(mean)} and {len(std)}"
            )
        for position, value in enumerate(mean):
            require_number(f"input.mean[{position}]", value)
        for position, value in enumerate(std):
            require_number(f"input.std[{position}]", value, above=0.0)

    @staticmethod
    def _check_range(input_range: tuple[float, float]) -> None:
        if len(input_range) != 2:
            raise ConfigError(f"input.input_range needs two numbers, lowest and highest, got {len(input_range)}")
        low, high = input_range
        require_number("input.input_range[0]", low)
        require_number("input.input_range[1]", high, above=low)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationConfig:
    """How numbers become integers.

    Attributes:
        bits: width of weights in bits. 8 by default: no model that we know of loses from it.
        act_bits: width in bits of the activations that weights multiply; what is only added keeps 8. 8 by default:
            runtimes are fastest there; fewer bits save no time today.
        edge_bits: width of the first and the last layer's weights, where it is more than ``bits``, and of what the
            first layer hands on, where it is more than ``act_bits``. What enters these layers keeps 8 bits. None, the
            default, is 8, because they often cost the most accuracy; ``mixed`` measures that, and keeps to a number
            only.
        calibration_method: how an activation range is read off the calibration data. ``mse`` by default: it gives up
            rare extremes where that lowers the total error.
        bias_correction: how the mean error of quantized weights is taken back out of the biases. ``auto`` uses the
            closed form where batch normalisation gives the moments and the calibration data where it does not. Blocks
            that are learned start from it, and learn their biases along.
        rounding: ``gptq`` rounds weights one column after the other and lets those to come make up for the error, as
            the second moments of the layer's inputs on the calibration data tell; ``nearest`` and ``squant`` look at no
            data, and ``squant`` makes the rounding errors of each kernel and each channel cancel. The others start from
            gptq and learn, block by block, wherever there are fewer than 8 bits: ``adaround`` the codes, ``genie-m``
            codes and steps, both by soft rounding, ``lsq`` codes and steps straight through the rounding. None, the
            default, takes gptq at the effort ``fast`` and lsq above.
        equalize: even the channel ranges of one layer out against those of the next before anything is quantized. Off
            by default: with a scale per channel it changed agreement by less than the noise on four networks, and lost
            a little of every layer's accuracy. For targets with one scale per tensor.
        weight_scales: ``mse`` searches the scale of each output channel, ``minmax`` takes its largest weight.
        quantize_outputs: also quantize the graph outputs. Off by default: quantized logits clip the top classes.

    """

    bits: int = 8
    act_bits: int = 8
    edge_bits: int | None = None
    calibration_method: CalibrationMethod = "mse"
    bias_correction: BiasCorrection = "auto"
    rounding: Rounding | None = None
    equalize: bool = False
    weight_scales: WeightScales = "mse"
    quantize_outputs: bool = False

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        for name in ("bits", "act_bits") if self.edge_bits is None else ("bits", "act_bits", "edge_bits"):
            require_choice(f"quantization.{name}", getattr(self, name), WIDTHS)
        require_choice("quantization.calibration_method", self.calibration_method, get_args(CalibrationMethod))
        require_choice("quantization.bias_correction", self.bias_correction, get_args(BiasCorrection))
        if self.rounding is not None:
            require_choice("quantization.rounding", self.rounding, get_args(Rounding))
        require_choice("quantization.weight_scales", self.weight_scales, get_args(WeightScales))


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileConfig:
    """All that one compilation can be told.

    Attributes:
        input: what the network expects at its inputs.
        generator: how calibration data is made. None, the default, takes ``pixels`` where batch normalisation
            statistics are there to be matched and ``prior`` where they are not.
        quantization: how numbers become integers.
        distill: train the whole quantized network towards the float one at the end. None, the default, does not.
        checkpoint: file of the trained tensors (.pt, .pth, .th, .safetensors), which tells what was folded away.
        bn_stats: file of ``zsq-compile harvest``, instead of it.
        target: name of a shipped target or path of a target's TOML file.
        samples: calibration samples to make. None, the default, takes the number from the effort.
        low_pass: frequency in cycles per pixel where a Gaussian low-pass filter over the finished images lets 61 % of
            the amplitude through, as SynQ has it (0.36 there at 224 pixels); lower is stronger. None, the default, is
            no filter.
        confident_share: share of the samples, 0 to 1, that are moved until a classifier is sure of what it sees in
            them, so that its outputs reach farther, as on real images. None, the default, is an eighth where the data
            goes to other quantizers (``synth``), which quantize outputs, and 0 in a compilation, which leaves them
            float.
        effort: time against accuracy; ``balanced`` is meant for every day. ``fast`` learns nothing, it only computes.
        time_budget: seconds that the whole compilation may take; learning takes what is left of them. None, the
            default, lets the effort decide, and only then do the same seeds give the same bytes.
        memory: bytes of activations that are held in memory while blocks are learned; what is more goes to files.
        device: where data is made and where learning and distilling run: ``cuda``, ``cpu``, or ``auto``, which takes
            cuda where there is such a device. All else runs on the processor.
        seed: start of all randomness: same seed, same machine, same bytes out.
        min_agreement: share from 0 to 1 of decisions that must be those of the float model: as estimated for real data,
            or counted on samples held out where there is no estimate. Below it the result is marked as missing its
            gate; the file is written all the same. ``mixed`` holds its trials against it on samples held out.
        mixed: choose the bits of every layer, ``bits`` at most, by what they cost the outputs: least harm under
            ``max_size``, or without it the smallest file that keeps ``min_agreement``.
        max_size: most bytes of the file, such as 200k or 1.5M, or its share of the float file, such as 0.15.
        speed_trials: where the file turns out slower than the float one, write other forms of it (fewer layers in
            integers, signed activations, weights alone) and keep the fastest. The clock decides then, so that the same
            seed need not give the same bytes.

    """

    input: InputConfig = field(default_factory=InputConfig)
    generator: GeneratorConfig | None = None
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    distill: DistillConfig | None = None
    checkpoint: str | None = None
    bn_stats: str | None = None
    target: str = "ort_cpu"
    samples: int | None = None
    low_pass: float | None = None
    confident_share: float | None = None
    effort: Effort = "balanced"
    time_budget: float | None = None
    memory: int = 2 << 30
    device: Device = "auto"
    seed: int = 0
    min_agreement: float | None = None
    mixed: bool = False
    max_size: str | None = None
    speed_trials: bool = True

    def __post_init__(self) -> None:
        """Check the values; ConfigError when one is wrong."""
        if not self.target:
            raise ConfigError("target needs the name of a target or the path of a target file, got an empty text")
        require_count("samples", self.samples)
        if self.low_pass is not None:
            require_number("low_pass", self.low_pass, above=0.0)
        if self.confident_share is not None:
            require_number("confident_share", self.confident_share, low=0.0, high=1.0)
        require_choice("effort", self.effort, get_args(Effort))
        require_choice("device", self.device, get_args(Device))
        if self.time_budget is not None:
            require_number("time_budget", self.time_budget, above=0.0)
        if self.memory < 0:
            raise ConfigError(f"memory needs a number of bytes of at least 0, got {self.memory}")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed needs a whole number from 0 to 2**63 - 1, got {self.seed}")
        if self.min_agreement is not None:
            require_number("min_agreement", self.min_agreement, low=0.0, high=1.0, hint="97 % is written 0.97")
        if self.effort == "fast" and self.quantization.rounding in get_args(LearnedRounding):
            raise ConfigError(
                f"quantization.rounding {self.quantization.rounding} learns, and the effort fast only computes: take "
                "the effort balanced, or the rounding gptq"
            )
        require_one_source(self.checkpoint, self.bn_stats)
        require_mixed_goal(self.mixed, self.max_size, self.min_agreement)
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
    def learned_rounding(self) -> LearnedRounding | None:
        """How codes are learned; None where nothing is learned."""
        chosen = self.quantization.rounding or ("gptq" if self.effort == "fast" else "lsq")
        return next((name for name in get_args(LearnedRounding) if name == chosen), None)
