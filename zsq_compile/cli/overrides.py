"""From the options that were given on a command line to a CompileConfig."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from zsq_compile.cli.options import GeneratorName
from zsq_compile.config.checks import Shape
from zsq_compile.config.compile import GENERATORS, CompileConfig, GeneratorConfig, InputConfig, QuantizationConfig
from zsq_compile.config.conditional_generators import AdadfqConfig, ConditionalConfig
from zsq_compile.config.distillation import chosen_distillation
from zsq_compile.config.file import read_config
from zsq_compile.config.units import parse_bytes, parse_seconds, parse_shape
from zsq_compile.errors import ConfigError

Section = TypeVar("Section", CompileConfig, InputConfig, QuantizationConfig)


def build_config(given: Mapping[str, Any]) -> CompileConfig:
    """Lay what was given on the command line over the configuration file, or over the defaults.

    Args:
        given: values of the options by their Python names, None where not given; names that are no setting are ignored.

    Raises:
        ConfigError: a value is wrong, alone or together with others.

    """
    file = given.get("config")
    units: dict[str, Callable[[Any], object]] = {
        "time_budget": parse_seconds,
        "memory": parse_bytes,
        "checkpoint": str,
        "bn_stats": str,
    }
    given = {**given, **{name: parse(given[name]) for name, parse in units.items() if given.get(name) is not None}}
    config = read_config(file) if file is not None else CompileConfig()
    if given.get("checkpoint") is not None or given.get("bn_stats") is not None:
        config = replace(config, checkpoint=None, bn_stats=None)  # of the file; they tell the same
    sections = ("input", "quantization", "generator", "distill")
    chosen = _laid_over(
        replace(
            config,
            input=_input(config.input, given),
            quantization=_laid_over(config.quantization, given),
            generator=_with_classes(_chosen_generator(config.generator, given.get("generator")), given.get("classes")),
            distill=chosen_distillation(
                config.distill,
                given.get("distill"),
                given.get("distill_checkpoint"),
                margin=bool(given.get("adversarial_margin")),
            ),
        ),
        {name: value for name, value in given.items() if name not in sections},
    )
    chosen.require_possible()
    return chosen


def require_widths_used(config: CompileConfig, given: Mapping[str, Any]) -> None:
    """Refuse widths for a command that quantizes nothing, where its generator learns against no quantized network.

    Args:
        config: with the generator.
        given: values of the options by their Python names, None where not given.

    Raises:
        ConfigError: a width is given and no generator asks for it.

    """
    widths = [f"--{name.replace('_', '-')}" for name in ("bits", "act_bits") if given.get(name) is not None]
    if widths and not isinstance(config.generator, AdadfqConfig):
        raise ConfigError(
            f"synth takes {' and '.join(widths)} only for the quantized network that adadfq learns against, and the "
            f"generator {_generator_name(config.generator)} learns against none: give --generator adadfq, or leave "
            f"{'it' if len(widths) == 1 else 'them'} out"
        )


def _input(configured: InputConfig, given: Mapping[str, Any]) -> InputConfig:
    shapes = dict(_named_shape(text) for text in given.get("input_shape") or ())
    numbers = {name: _numbers(name, given.get(name)) for name in ("mean", "std", "input_range")}
    # A range on the command line takes the place of the file's mean and std, and the other way round.
    if numbers["input_range"] is not None:
        configured = replace(configured, mean=None, std=None)
    elif numbers["mean"] is not None:
        configured = replace(configured, input_range=None)
    return _laid_over(configured, {"shapes": {**configured.shapes, **shapes}, **numbers})


def _laid_over(section: Section, given: Mapping[str, Any]) -> Section:
    known = {field.name for field in fields(section)}
    return replace(section, **{name: value for name, value in given.items() if name in known and value is not None})


def _chosen_generator(configured: GeneratorConfig | None, name: GeneratorName | None) -> GeneratorConfig | None:
    if name is None:
        return configured
    if name == "auto":
        return None
    kind = GENERATORS[name]
    return configured if isinstance(configured, kind) else kind()


def _generator_name(generator: GeneratorConfig | None) -> str:
    return next((name for name, kind in GENERATORS.items() if isinstance(generator, kind)), "auto")


def _with_classes(generator: GeneratorConfig | None, classes: str | None) -> GeneratorConfig | None:
    """Put the classes that are asked for into the generator's settings."""
    if classes is None:
        return generator
    if not isinstance(generator, ConditionalConfig):
        able = [name for name, kind in GENERATORS.items() if issubclass(kind, ConditionalConfig)]
        raise ConfigError(
            f"--classes asks for images of classes, which the generator {_generator_name(generator)} does not know: "
            f"give --generator {' or '.join(able)}, or leave --classes out"
        )
    try:
        return replace(generator, classes=tuple(int(number) for number in classes.split(",")))
    except ValueError as error:
        raise ConfigError(f"--classes takes numbers with commas between them, such as 3,7, got {classes!r}") from error


def _named_shape(text: str) -> tuple[str, Shape]:
    # Names may hold colons (ImageTensor:0), so the last one separates.
    name, separator, sizes = text.rpartition(":")
    if not separator or not name:
        raise ConfigError(f"--input-shape is written NAME:1x3x224x224, got {text!r}")
    return name, parse_shape(sizes)


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        option = name.replace("_", "-")
        raise ConfigError(f"--{option} takes numbers with commas between them, got {text!r}") from error
