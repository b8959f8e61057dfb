"""From the options that were given on a command line to a CompileConfig."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zsq_compile.cli.options import CONFIGURED
from zsq_compile.config.checks import require_folder
from zsq_compile.config.compile import GENERATORS, CompileConfig, GeneratorConfig, InputConfig
from zsq_compile.config.conditional_generators import ConditionalConfig
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.errors import ConfigError


def build_config(given: Mapping[str, Any], file: Path | None = None) -> CompileConfig:
    """Lay what was given on the command line over the configuration file, or over the defaults.

    Args:
        given: values of the options of the configuration that were given, by the options' names in Python.
        file: configuration file, if there is one.

    Raises:
        ConfigError: a value is wrong, alone or together with others.

    """
    config = CompileConfig()
    if file is not None:
        from zsq_compile.config.file import read_config  # TOML takes longer to import than the help may

        config = read_config(file)
    sections: dict[str, dict[str, Any]] = {"": {}, "input": {}, "quantization": {}, "generator": {}, "distill": {}}
    for name, value in given.items():
        one = CONFIGURED[name]
        sections[one.section][one.name] = one.parsed(value)
    top = sections[""]
    if {"checkpoint", "bn_stats"} & top.keys():
        config = replace(config, checkpoint=None, bn_stats=None)  # one option takes the place of the file's other
    top["generator"] = _generator(config.generator, top.get("generator"), sections["generator"])
    top["distill"] = _distillation(config.distill, top.get("distill"), sections["distill"])
    top["input"] = _input(config.input, sections["input"])
    chosen = replace(config, quantization=replace(config.quantization, **sections["quantization"]), **top)
    chosen.require_possible()
    return chosen


def generator_name(generator: GeneratorConfig | None) -> str:
    """Return the word that chooses a generator."""
    return next((name for name, kind in GENERATORS.items() if isinstance(generator, kind)), "auto")


def _input(configured: InputConfig, given: Mapping[str, Any]) -> InputConfig:
    # A range on the command line takes the place of the file's mean and std, and the other way round.
    if "input_range" in given:
        configured = replace(configured, mean=None, std=None)
    elif "mean" in given:
        configured = replace(configured, input_range=None)
    return replace(configured, **{**given, "shapes": {**configured.shapes, **given.get("shapes", {})}})


def _generator(
    configured: GeneratorConfig | None, name: str | None, given: Mapping[str, Any]
) -> GeneratorConfig | None:
    chosen = configured
    if name == "auto":
        chosen = None
    elif name is not None and not isinstance(configured, GENERATORS[name]):
        chosen = GENERATORS[name]()
    if not given:
        return chosen
    if not isinstance(chosen, ConditionalConfig):
        able = [name for name, kind in GENERATORS.items() if issubclass(kind, ConditionalConfig)]
        raise ConfigError(
            f"--classes asks for images of classes, which the generator {generator_name(chosen)} does not know: "
            f"give --generator {' or '.join(able)}, or leave --classes out"
        )
    return replace(chosen, **given)


def _distillation(
    configured: DistillConfig | None, wanted: bool | None, given: Mapping[str, Any]
) -> DistillConfig | None:
    chosen = configured if wanted is None else (configured or DistillConfig()) if wanted else None
    if not given:
        return chosen
    if chosen is None:
        options = [name for name, one in CONFIGURED.items() if one.section == "distill" and one.name in given]
        raise ConfigError(f"{CONFIGURED[options[0]].word} belongs to a distillation: give --distill as well")
    if "checkpoint" in given:
        require_folder(Path(given["checkpoint"]))
    return replace(chosen, **given)
