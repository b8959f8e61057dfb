"""Configuration files: TOML whose tables are the sections of CompileConfig."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_origin

from zsq_compile.config.checks import Shape
from zsq_compile.config.compile import GENERATORS, CompileConfig, GeneratorConfig, InputConfig, QuantizationConfig
from zsq_compile.config.distillation import DistillConfig
from zsq_compile.config.units import parse_shape
from zsq_compile.errors import ConfigError

_SECTIONS = {"input": InputConfig, "quantization": QuantizationConfig, "distill": DistillConfig}


def read_config(path: Path) -> CompileConfig:
    """Read a TOML file whose tables are the sections of CompileConfig.

    The generator is named by ``kind`` in its table: ``[generator] kind = "pixels"``; the table's other keys are the
    fields of that generator's config. ConfigError when the file, a key or a value is wrong; an unknown key is answered
    with the nearest valid one.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not valid TOML: {error}") from error
    try:
        return _structure(table)
    except ConfigError as error:
        raise ConfigError(f"configuration file {path}: {error}") from error


def _structure(table: Mapping[str, Any]) -> CompileConfig:
    # Imported here: cattrs takes longer to import than everything else that `--help` needs.
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=True)
    for kind in (int, float, bool, str):
        converter.register_structure_hook(kind, _strict)
    # The configs' own checks know the valid words and counts, and say more than cattrs would.
    converter.register_structure_hook_func(_is_literal, lambda value, _: value)
    converter.register_structure_hook_func(
        lambda kind: kind in (tuple[float, ...], tuple[float, float]),
        lambda value, _: tuple(_strict(number, float) for number in _strict(value, list)),
    )
    converter.register_structure_hook_func(
        lambda kind: kind == tuple[int, ...],
        lambda value, _: tuple(_strict(number, int) for number in _strict(value, list)),
    )
    converter.register_structure_hook_func(lambda kind: kind == Shape, _structure_shape)
    converter.register_structure_hook(
        GeneratorConfig | None, lambda value, _: converter.structure(*_generator_table(value))
    )
    for name in _SECTIONS.keys() & table.keys():
        if not isinstance(table[name], dict):
            raise ConfigError(f"{name} is a table of keys, written [{name}], got {table[name]!r}")
    try:
        return converter.structure(table, CompileConfig)
    except Exception as error:  # cattrs groups whatever the hooks raise
        raise ConfigError(_first_message(error)) from error


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _strict(value: object, kind: type) -> Any:
    """Refuse the conversions that int(), str() and their like would make in silence."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"wanted {_TYPE_WORDS[kind]}, got {value!r}")
    return value


_TYPE_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list",
}


def _structure_shape(value: object, _: object) -> Shape:
    if isinstance(value, str):
        return parse_shape(value)
    if isinstance(value, list):
        return tuple(_strict(size, int) for size in value)
    raise ConfigError(f'wanted a shape such as "1x3x224x224" or [1, 3, 224, 224], got {value!r}')


def _generator_table(value: object) -> tuple[dict[str, Any], type]:
    if not isinstance(value, Mapping):
        raise ConfigError(f'wanted a table with a key "kind", got {value!r}')
    rest = dict(value)
    kind = rest.pop("kind", None)
    if kind not in GENERATORS:
        raise ConfigError(f'"kind" must be one of {", ".join(GENERATORS)}, got {kind!r}')
    return rest, GENERATORS[kind]


def _first_message(error: BaseException, where: str = "") -> str:
    """Find the first cause inside what cattrs raised, with the path of the key that it stands at."""
    from cattrs import AttributeValidationNote, ForbiddenExtraKeysError, IterableValidationNote

    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            where = f"{where}.{note.name}" if where else note.name
        elif isinstance(note, IterableValidationNote):
            where = f"{where}[{note.index!r}]"
    if isinstance(error, BaseExceptionGroup):
        return _first_message(error.exceptions[0], where)
    if isinstance(error, ForbiddenExtraKeysError):
        return _unknown_key(min(error.extra_fields), [one.name for one in fields(error.cl)], where)
    text = str(error)
    return text if not where or text.startswith(where.split(".")[0]) else f"{where}: {text}"


def _unknown_key(key: str, valid: list[str], where: str) -> str:
    place = f"table [{where}]" if where else "the top level"
    if not valid:
        return f"unknown key {key!r} in {place}: this table takes no keys"
    # At the top level a section's key is often meant, so those are candidates as well.
    sections = (
        {} if where else {one.name: f"{name}.{one.name}" for name, kind in _SECTIONS.items() for one in fields(kind)}
    )
    near = difflib.get_close_matches(key.replace("-", "_"), [*valid, *sections], n=1, cutoff=0.0)[0]
    return f"unknown key {key!r} in {place}: did you mean {sections.get(near, near)!r}? Valid keys: {', '.join(valid)}"
