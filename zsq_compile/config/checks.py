"""Checks of single values, with one wording for all of them: what is wanted, what came."""

import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsq_compile.errors import ConfigError

Shape = tuple[int | None, ...]
"""Sizes of one network input, batch first; None is a size that stays dynamic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Numbers that are allowed: finite, from low to high, and greater than ``above``; the hint ends a refusal."""

    low: float = -math.inf
    above: float = -math.inf
    high: float = math.inf
    hint: str = ""

    def __str__(self) -> str:
        """Say them, as in ``of at least 0 and of at most 1``; empty where all finite numbers are allowed."""
        limits = (("of at least", self.low), ("above", self.above), ("of at most", self.high))
        words = (f"{word} {limit:g}" if isinstance(limit, float) else f"{word} {limit}" for word, limit in limits)
        return " and ".join(said for said in words if not said.endswith("inf"))

    def allow(self, value: float) -> bool:
        """Whether a number is one of them."""
        return math.isfinite(value) and self.low <= value <= self.high and value > self.above


def require_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ConfigError unless the value is one of the choices."""
    if value not in choices or isinstance(value, bool):
        raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def require_count(name: str, value: object) -> None:
    """Raise ConfigError unless the value is a whole number of at least 1, or None."""
    if value is not None:
        require_number(name, value, Bounds(low=1), whole=True)


def require_number(name: str, value: Any, bounds: Bounds, *, whole: bool = False) -> None:
    """Raise ConfigError unless the value is a number within the bounds, and whole where that is asked for."""
    fits = isinstance(value, int) and not isinstance(value, bool) if whole else isinstance(value, int | float)
    if not fits or not bounds.allow(value):
        wanted = f"a {'whole' if whole else 'finite'} number {bounds}".rstrip()
        raise ConfigError(f"{name} must be {wanted}, got {value!r}" + (f"; {bounds.hint}" if bounds.hint else ""))


def parse_size(text: str) -> int | float:
    """Read a size of a file: ``200k`` or ``1.5M`` (units of 1000), plain bytes, or a share of another file up to 1.

    Returns an int for bytes and a float for a share. ConfigError when it is neither.
    """
    units = {"k": 1e3, "m": 1e6, "g": 1e9}
    plain = text.strip().lower().removesuffix("b")
    factor = units.get(plain[-1:], 1.0)
    try:
        number = float(plain[:-1] if plain[-1:] in units else plain) * factor
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0.0):
        raise ConfigError(f"a size is written 200k, 1.5M or, as a share of the float file, 0.15, got {text!r}")
    return number if number <= 1.0 else int(number)


def require_mixed_goal(mixed: bool, max_size: str | None, least_kept: float | None) -> None:
    """Raise ConfigError where mixed bits have no goal, or a limit of size is given without them."""
    if max_size is not None:
        parse_size(max_size)
        if not mixed:
            raise ConfigError("max_size limits the bits that mixed chooses: give mixed (--mixed) as well")
    elif mixed and least_kept is None:
        raise ConfigError("mixed needs a goal: max_size (--max-size 200k or 0.15), min_agreement (0.97), or a metric")


def require_shape(name: str, shape: Shape) -> None:
    """Raise ConfigError unless every size is at least 1 or None."""
    if not all(size is None or (isinstance(size, int) and size >= 1) for size in shape) or not shape:
        raise ConfigError(f"{name} needs sizes of at least 1, or none for dynamic ones, got {shape!r}")


def require_shapes(shapes: Mapping[str, Shape], *, fix: bool) -> None:
    """Raise ConfigError unless the shapes by input name are some, and there are any where they are to be fixed."""
    for name, shape in shapes.items():
        require_shape(f"input.shapes.{name}", shape)
    if fix and not shapes:
        raise ConfigError("--fix-shapes writes the sizes of --input-shape into the file: give them, too")


def require_folder(path: Path) -> None:
    """Raise ConfigError unless a file can be put at ``path``: its folder exists, and no folder has its name."""
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"wanted the name of a file in a folder that exists, got {path}")


def require_paths(option: str, paths: Sequence[str]) -> None:
    """Raise ConfigError unless there is something at every path; they are no text by themselves."""
    if isinstance(paths, str):
        raise ConfigError(f"{option} takes several paths, each a text of its own, got {paths!r}: write [{paths!r}]")
    for path in paths:
        if not Path(path).exists():
            raise ConfigError(f"{option} wants a file or a folder, got {path}, which does not exist")


def require_patterns(option: str, patterns: Sequence[str]) -> None:
    """Raise ConfigError unless every pattern is a text that is not empty; they are no text by themselves."""
    if isinstance(patterns, str) or not all(isinstance(one, str) and one.strip() for one in patterns):
        raise ConfigError(
            f"quantization.{option} takes patterns, each a text such as '/head/*' or Softmax, got {patterns!r}"
        )


def require_command(command: str | None) -> None:
    """Raise ConfigError unless a command of a metric can be split into words and names the file."""
    if command is None:
        return
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"metric is no command ({error}), got {command!r}") from error
    if not any("{model}" in word for word in words[1:]):
        raise ConfigError(
            f"metric needs a command and {{model}} where the path of a file belongs, such as "
            f"'python eval.py {{model}}', got {command!r}"
        )


def require_one_source(checkpoint: str | None, bn_stats: str | None) -> None:
    """Raise ConfigError where two files are to give the batch normalisation statistics."""
    if checkpoint is not None and bn_stats is not None:
        raise ConfigError(
            f"checkpoint (--checkpoint {checkpoint}) and bn_stats (--bn-stats {bn_stats}) are mutually exclusive: "
            "leave one out"
        )
