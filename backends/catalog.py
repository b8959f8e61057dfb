"""Targets read from TOML: a new chip is a new file in ``targets/`` (or anywhere, given by its path)."""

import difflib
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import cattrs

from backends.machine import detect_target
from backends.target import Target

AUTO = "auto"
_BLOCK_SIZES = (16, 32, 64, 128, 256)  # with 512, ONNX Runtime 1.26 silently made zeros
_FOLDER = Path(__file__).parent / "targets"


class TargetError(ValueError):
    """A target is unknown, or its file is wrong."""


def target_names() -> tuple[str, ...]:
    """Names of the targets in the package, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_target(name_or_path: str | Path) -> Target:
    """Read a target by its name, "auto" for this machine's, or from the path of a TOML file.

    Raises:
        TargetError: no such target, or the file is not TOML, has an unknown or missing key, or a wrong value.

    """
    path = _find(name_or_path)
    table = _table(path)
    try:
        target = _CONVERTER.structure({"name": path.stem, **table}, Target)
    except Exception as error:  # cattrs raises groups, and plain errors of the constructors inside them
        raise TargetError(f"{path}: {'; '.join(_describe(error))}") from error
    _check(target, path)
    return target


def _table(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file; its keys override those of the file that it is based on."""
    if path.resolve() in readers:
        raise TargetError(f"{path} is based on itself: remove based_on from one of the files")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TargetError(f"cannot read the target file {path}: {error}") from error
    base = table.pop("based_on", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise TargetError(f"{path}: based_on must be the name of a target, got {base!r}")
    return {**_table(_find(base), (*readers, path.resolve())), **table}


def _find(name_or_path: str | Path) -> Path:
    if name_or_path == AUTO:
        name_or_path = detect_target().name
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return path
    shipped = _FOLDER / f"{name_or_path}.toml"
    if str(name_or_path) in target_names():
        return shipped
    nearest = difflib.get_close_matches(str(name_or_path), target_names(), n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known targets: {', '.join((AUTO, *target_names()))}"
    raise TargetError(f"there is no target {str(name_or_path)!r}; {hint} (a file of your own must end in .toml)")


def _strictly(value: Any, wanted: type) -> Any:
    """Accept no bool for an int and no int for a str: TOML has types."""
    if type(value) is not wanted:
        raise ValueError(f"wanted {wanted.__name__}, got {value!r}")
    return value


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for plain in (int, str, bool):
        converter.register_structure_hook(plain, _strictly)
    return converter


_CONVERTER = _make_converter()


def _describe(error: BaseException, where: str = "target") -> Iterator[str]:
    """Flatten a tree of cattrs errors into one phrase for each leaf."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _describe(inner, _place(inner, where))
    elif isinstance(error, cattrs.errors.ForbiddenExtraKeysError):
        known = [field.name for field in fields(error.cl)] if is_dataclass(error.cl) else []
        for key in sorted(error.extra_fields):
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
            yield f"unknown key {key!r} in {where}; {hint}"
    elif isinstance(error, KeyError):
        yield f"the key {error.args[0]!r} is missing in {where}"
    else:
        yield f"{where}: {error}"


def _place(error: BaseException, where: str) -> str:
    """Return the place of an error in the file, from the notes of cattrs."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, cattrs.AttributeValidationNote):
            return f"{where}.{note.name}"
        if isinstance(note, cattrs.IterableValidationNote):
            return f"{where}[{note.index}]"
    return where


def _check(target: Target, path: Path) -> None:
    for role, number_format in (("activation", target.activation), ("weight", target.weight)):
        if not 2 <= number_format.bits <= 16:
            raise TargetError(f"{path}: {role}.bits must lie in 2..16, got {number_format.bits}")
    if not 2 <= target.least_activation_bits <= target.activation.bits:
        raise TargetError(
            f"{path}: least_activation_bits must lie in 2..{target.activation.bits}, got {target.least_activation_bits}"
        )
    if target.newest_opset and target.newest_opset < target.opset:
        raise TargetError(
            f"{path}: newest_opset must be 0 or at least opset, {target.opset}, got {target.newest_opset}"
        )
    _check_blockwise(target, path)
    if not target.weight.symmetric:
        raise TargetError(f"{path}: weight.symmetric must be true: weights with zero points are not supported")
    repeated = [name for name, count in Counter(rule.op_type for rule in target.operators).items() if count > 1]
    if repeated:
        raise TargetError(f"{path}: the operator {repeated[0]} has more than one row; keep one")
    repeated = [name for name, count in Counter(rule.structure for rule in target.keep_float).items() if count > 1]
    if repeated:
        raise TargetError(f"{path}: the structure {repeated[0]} has more than one row in keep_float; keep one")


def _check_blockwise(target: Target, path: Path) -> None:
    rule = target.blockwise
    if rule.block_size not in (0, *_BLOCK_SIZES):
        sizes = ", ".join(map(str, _BLOCK_SIZES))
        raise TargetError(f"{path}: blockwise.block_size must be 0 (never) or one of {sizes}, got {rule.block_size}")
    if rule.least_weights < 0 or rule.most_rows < 1:
        raise TargetError(
            f"{path}: blockwise requires least_weights of 0 or more and most_rows of 1 or more, "
            f"got {rule.least_weights} and {rule.most_rows}"
        )
    if rule.block_size and target.packed_weight_bits < 4:
        raise TargetError(
            f"{path}: blockwise stores INT4, but packed_weight_bits is {target.packed_weight_bits}: set it to 4, or "
            "blockwise.block_size to 0"
        )
