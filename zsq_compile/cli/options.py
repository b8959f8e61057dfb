"""The options of the commands: those of the configuration, those of a command alone, and their form for typer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from zsq_compile.config.compile import CompileConfig, InputConfig, QuantizationConfig
from zsq_compile.config.conditional_generators import ConditionalConfig
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.config.fields import DATA, INPUT, PRECISION, RESULT, RUN, Option, Setting, settings_of

_PANELS = (None, PRECISION, DATA, INPUT, RESULT, RUN)
_SECTIONS = {
    "quantization": QuantizationConfig,
    "": CompileConfig,
    "distill": DistillConfig,
    "generator": ConditionalConfig,
    "input": InputConfig,
}
CONFIGURED: Mapping[str, Setting] = {
    one.parameter: one
    for section, kind in _SECTIONS.items()
    for one in settings_of(kind, section)
    if one.option is not None
}
"""Options of the configuration, by their names in Python."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandOptions:
    """What every command takes.

    Attributes:
        model: the float ONNX model.
        json: one JSON object on stdout, everything else on stderr.
        quiet: print errors and the path of the result, and nothing else.
        verbose: print details and times of the stages, and tracebacks.

    """

    model: Path
    json: Annotated[bool, Option(panel=RESULT)] = False
    quiet: Annotated[bool, Option(panel=RUN, names=("--quiet", "-q"))] = False
    verbose: Annotated[bool, Option(panel=RUN, names=("--verbose", "-v"))] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfiguredOptions(CommandOptions):
    """What commands take whose settings may stand in a file.

    Attributes:
        config: TOML file with the same settings; options given here win.

    """

    config: Annotated[Path | None, Option(panel=RUN, metavar="FILE.toml")] = None


def options_of(own: type[CommandOptions], configured: Sequence[str]) -> Mapping[str, Setting]:
    """Return all options of a command in the order of its help, by the names that typer hands over.

    Args:
        own: options of the command alone.
        configured: names of those that it takes of the configuration.

    """
    alone = {one.name: one for one in settings_of(own) if one.option is not None}
    shared = {one.name for one in settings_of(ConfiguredOptions)}
    alone = dict(sorted(alone.items(), key=lambda entry: entry[0] in shared))
    both = {**{name: CONFIGURED[name] for name in CONFIGURED if name in configured}, **alone}
    return dict(sorted(both.items(), key=lambda entry: _PANELS.index((entry[1].option or Option()).panel)))


def typer_fields(own: type[CommandOptions], options: Mapping[str, Setting]) -> list[tuple[str, Any, Any]]:
    """Return name, annotation and default of every parameter of a command; what is not given is None."""
    model = next(one for one in settings_of(own) if one.name == "model")
    argument = typer.Argument(help=model.summary, metavar="MODEL.onnx", show_default=False)
    return [
        ("model", Annotated[Path, argument], ...),
        *((name, _annotation(one, options), None) for name, one in options.items()),
    ]


def help_text(text: str, options: Mapping[str, Setting], quote: str = "") -> str:
    """Write ``field`` in a description as its option where there is one, and as it is where not."""

    def written(found: re.Match[str]) -> str:
        return f"{quote}{options[found[1]].word if found[1] in options else found[1]}{quote}"

    return re.sub("``(.+?)``", written, text)


def default_words(one: Setting) -> str:
    """Say what holds where an option is left out; empty where that is nothing to speak of."""
    if one.option is not None and one.option.default is not None:
        return one.option.default
    if issubclass(one.owner, CommandOptions):
        return ""
    if isinstance(one.default, bool):
        return "on" if one.default else "off"
    return str(one.default) if isinstance(one.default, str | int | float) else ""


def _annotation(one: Setting, options: Mapping[str, Setting]) -> Any:
    return Annotated[_word_type(one) | None, _typer_option(one, options)]


def _typer_option(one: Setting, options: Mapping[str, Setting]) -> Any:
    option = one.option or Option()
    return typer.Option(
        *one.words,
        help=help_text(one.summary, options),
        metavar=option.metavar or ("|".join(map(str, one.choices)) if one.kind is int and one.choices else None),
        show_default=help_text(default_words(one), options) or False,
        rich_help_panel=option.panel,
        callback=option.at_once,
        is_eager=option.at_once is not None,
    )


def _word_type(one: Setting) -> Any:
    """Return the type that typer makes of the words of an option."""
    if one.is_flag:
        return bool
    if one.option is not None and one.option.words:
        return Literal[one.option.words]
    if one.option is not None and one.option.read is not None:
        return list[str] if get_origin(one.kind) is Mapping else str
    return list[get_args(one.kind)[0]] if get_origin(one.kind) is tuple else one.kind  # type: ignore[misc]
