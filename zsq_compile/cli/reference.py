"""Print the reference pages of the command line and of the configuration file, from what both are made of.

python -m zsq_compile.cli.reference docs/reference        writes cli.md and config-file.md
"""

import contextlib
import inspect
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import get_args, get_origin

from zsq_compile.cli.command import COMMANDS, EXIT_CODES, Command
from zsq_compile.cli.entry import main as run
from zsq_compile.cli.options import CONFIGURED, CommandOptions, default_words, help_text
from zsq_compile.config.checks import Shape
from zsq_compile.config.compile import GENERATORS, CompileConfig, InputConfig, QuantizationConfig
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.config.fields import Setting, settings_of

_SOURCE = "<!-- Written by python -m zsq_compile.cli.reference; what it says stands in the code. -->"
_TABLES = {"input": InputConfig, "quantization": QuantizationConfig, "distill": DistillConfig, "generator": None}
_TYPES: Mapping[object, str] = {int: "whole number", float: "number", bool: "true or false", str: "string"}


def cli_page() -> str:
    """Return the page of the command line: every option of every command, and the exit codes."""
    commands = {
        "zsq-compile": "compile",
        **{f"zsq-compile {name}": name for name in COMMANDS},
    }
    lines = [
        "# Command line",
        _SOURCE,
        "`zsq-compile MODEL.onnx` compiles; another first word does another job. An option that is not given leaves "
        "what the [configuration file](config-file.md) says, or the default. `--act_bits` is `--act-bits`, and so on.",
    ]
    for title, module in commands.items():
        lines += _command(title, import_module(f"zsq_compile.cli.{module}").COMMAND)
    lines += ["## zsq-compile verify", f"```\n{_verify_help()}\n```"]
    lines += ["## Exit codes", _table(("code", "meaning"), ((str(code), text) for code, text in EXIT_CODES.items()))]
    return "\n\n".join(lines) + "\n"


def config_page() -> str:
    """Return the page of the configuration file: every key of every table."""
    lines = [
        "# Configuration file",
        _SOURCE,
        "A TOML file for `--config` or `zsq_compile.read_config`; options on the command line win over it. The keys "
        "are the fields of `CompileConfig` in Python; None, where that is a default, means that the key is left out. "
        'Times, sizes and the like may be strings as on the command line, such as `time_budget = "10m"`. An unknown '
        "key is an error that names the nearest.",
        "## Top level",
        _keys(CompileConfig, ""),
    ]
    for section, kind in _TABLES.items():
        if kind is not None:
            lines += [f"## [{section}]", _first_line(kind), _keys(kind, section)]
    kinds = ", ".join(f"`{name}`" for name in GENERATORS)
    lines += ["## [generator]", f"`kind` names the generator: {kinds}. The other keys are those of that generator."]
    for name, generator in GENERATORS.items():
        lines += [f'### kind = "{name}"', _first_line(generator), _keys(generator, "generator")]
    return "\n\n".join(lines) + "\n"


def _command(title: str, command: Command[CommandOptions]) -> Iterator[str]:
    yield f"## {title}"
    yield inspect.cleandoc(command.work.__doc__ or "")
    yield f"```\n{title} [OPTIONS] MODEL.onnx\n```"
    head = ("option", "what it is", "values", "default", "configuration key")
    for panel, entries in groupby(command.options.items(), lambda entry: entry[1].option and entry[1].option.panel):
        yield f"**{panel or 'Options'}**"
        yield _table(head, (_row(one, command.options, one is CONFIGURED.get(name)) for name, one in entries))


def _row(one: Setting, options: Mapping[str, Setting], configured: bool) -> tuple[str, ...]:
    words = " ".join(one.words).replace("/", " ").split()
    summary, default = (help_text(text, options, "`") for text in (one.summary, default_words(one)))
    return ", ".join(f"`{word}`" for word in words), summary, _values(one), default, f"`{one.key}`" * configured


def _keys(kind: type, section: str) -> str:
    lines = []
    for one in settings_of(kind, section):
        if one.key in _TABLES:
            continue
        default = "" if one.default is None else f"default {_literal(one.default)}"
        option = f"option `{one.word}`" if one.option else ""
        facts = "; ".join(fact for fact in (_values(one, in_file=True), default, option) if fact)
        lines.append(f"- `{one.name}` ({facts}): {help_text(one.description, {}, '`')}")
    return "\n".join(lines) or "No other key."


def _values(one: Setting, *, in_file: bool = False) -> str:
    """Say what an option or a key takes; a vertical bar would end a cell of a table."""
    option = one.option
    if one.is_flag and not in_file:
        return ""
    if option is not None and option.words and not in_file:
        return ", ".join(f"`{word}`" for word in option.words)
    if one.choices:
        return ", ".join(f"`{choice}`" for choice in one.choices)
    if option is not None and option.metavar is not None and not in_file:
        return f"`{option.metavar.replace('|', '`, `')}`"
    if get_origin(one.kind) is tuple:
        return f"list of {_TYPES[get_args(one.kind)[0]]}s"
    if get_origin(one.kind) is Mapping:
        shapes = get_args(one.kind)[1] == Shape
        return f"table of {'shapes by input name, such as' if shapes else 'bits by pattern, 8, 4, 3, 2 or'} " + (
            '"?x3x224x224"' if shapes else '"float"'
        )
    return " ".join(word for word in (_TYPES.get(one.kind, "path"), str(one.bounds or "")) if word)


def _literal(value: object) -> str:
    return f"`{json.dumps(value)}`" if isinstance(value, str | int | float) else "empty"


def _first_line(kind: type) -> str:
    return help_text((kind.__doc__ or "").partition("\n")[0], {}, "`")


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _verify_help() -> str:
    """Return the help of ``verify``, whose options are made by argparse, as it has nothing else on a device."""
    kept, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100"
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            run(["verify", "--help"])
    finally:
        del os.environ["COLUMNS"]
        if kept is not None:
            os.environ["COLUMNS"] = kept
    return printed.getvalue().rstrip()


def main(folder: Path) -> None:
    """Write both pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cli.md").write_text(cli_page(), encoding="utf-8")
    (folder / "config-file.md").write_text(config_page(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
