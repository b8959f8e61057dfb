"""Configuration files: TOML whose tables are the sections of CompileConfig."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from zsq_compile.config.checks import Shape
from zsq_compile.config.compile import GENERATORS, CompileConfig, GeneratorConfig, LayerBits
from zsq_compile.config.fields import Setting, settings_of
from zsq_compile.config.units import parse_shape
from zsq_compile.errors import ConfigError

_TYPE_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list",
}


def read_config(path: Path) -> CompileConfig:
    """Read a TOML file whose tables are the sections of CompileConfig.

    The generator is named by ``kind`` in its table: ``[generator] kind = "pixels"``; the table's other keys are the
    fields of that generator's config. What an option reads from a word, such as ``10m``, may be a string here as well.
    ConfigError when the file, a key or a value is wrong; an unknown key is answered with the nearest valid one.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not valid TOML: {error}") from error
    try:
        config: CompileConfig = _section(CompileConfig, table, "")
    except ConfigError as error:
        raise ConfigError(f"configuration file {path}: {error}") from error
    return config


def _section(kind: type, table: Mapping[str, Any], section: str) -> Any:
    """Make a configuration from its table."""
    known = {one.name: one for one in settings_of(kind, section)}
    if unknown := table.keys() - known.keys():
        raise ConfigError(_unknown_key(min(unknown), list(known), section))
    return kind(**{name: _value(known[name], value) for name, value in table.items()})


def _value(one: Setting, value: object) -> object:
    if one.kind == GeneratorConfig:
        return _generator(value)
    if isinstance(one.kind, type) and is_dataclass(one.kind):
        return _section(one.kind, _table(one.key, value), one.key)
    kind, parts = get_origin(one.kind) or one.kind, get_args(one.kind)
    entries = _table(one.key, value) if kind is Mapping else {}
    try:
        if kind is Mapping:
            of_entry = _shape if parts[1] == Shape else _bits
            return {name: of_entry(given) for name, given in entries.items()}
        if isinstance(value, str) and one.option is not None and one.option.read is not None:
            return one.option.read(value)
        if kind is tuple:
            return tuple(_strict(number, parts[0]) for number in _strict(value, list))
        # The configs' own checks know the valid words, and say more.
        return value if kind is Literal else _strict(value, kind)
    except ConfigError as error:
        raise ConfigError(f"{one.key}: {error}") from error


def _table(key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} is a table of keys, written [{key}], got {value!r}")
    return value


def _strict(value: object, kind: type) -> Any:
    """Refuse the conversions that int(), str() and their like would make in silence."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"wanted {_TYPE_WORDS[kind]}, got {value!r}")
    return value


def _shape(value: object) -> Shape:
    if isinstance(value, str):
        return parse_shape(value)
    if isinstance(value, list):
        return tuple(_strict(size, int) for size in value)
    raise ConfigError(f'wanted a shape such as "1x3x224x224" or [1, 3, 224, 224], got {value!r}')


def _bits(value: object) -> LayerBits:
    return "float" if value == "float" else int(_strict(value, int))


def _generator(value: object) -> GeneratorConfig:
    if not isinstance(value, Mapping):
        raise ConfigError(f'generator: wanted a table with a key "kind", got {value!r}')
    rest = dict(value)
    kind = rest.pop("kind", None)
    if kind not in GENERATORS:
        raise ConfigError(f'generator: "kind" must be one of {", ".join(GENERATORS)}, got {kind!r}')
    config: GeneratorConfig = _section(GENERATORS[kind], rest, "generator")
    return config


def _unknown_key(key: str, valid: list[str], section: str) -> str:
    place = f"table [{section}]" if section else "the top level"
    if not valid:
        return f"unknown key {key!r} in {place}: this table takes no keys"
    # At the top level a section's key is often meant, so those are candidates as well.
    tables = () if section else tuple(one for one in settings_of(CompileConfig) if is_dataclass(one.kind))
    inner = {one.name: one.key for table in tables for one in settings_of(table.kind, table.name)}
    near = difflib.get_close_matches(key.replace("-", "_"), [*valid, *inner], n=1, cutoff=0.0)[0]
    return f"unknown key {key!r} in {place}: did you mean {inner.get(near, near)!r}? Valid keys: {', '.join(valid)}"
