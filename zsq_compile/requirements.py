"""Checks of single values, with one wording for all of them: what is wanted, what came."""

import math
from collections.abc import Collection
from pathlib import Path

from zsq_compile.errors import ConfigError

Shape = tuple[int | None, ...]
"""Sizes of one network input, batch first; None is a size that stays dynamic."""


def require_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ConfigError unless the value is one of the choices."""
    if value not in choices or isinstance(value, bool):
        raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def require_count(name: str, value: int | None) -> None:
    """Raise ConfigError unless the value is a whole number of at least 1, or None."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


def require_number(
    name: str, value: float, *, low: float = -math.inf, above: float = -math.inf, high: float = math.inf, hint: str = ""
) -> None:
    """Raise ConfigError unless the value is finite, in [low, high] and greater than ``above``."""
    if isinstance(value, int | float) and math.isfinite(value) and low <= value <= high and value > above:
        return
    bounds = [f"of at least {low:g}"] * (low > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    bounds += [f"of at most {high:g}"] * (high < math.inf)
    raise ConfigError(
        f"{name} must be a finite number {' and '.join(bounds)}".rstrip()
        + f", got {value!r}"
        + (f"; {hint}" if hint else "")
    )


def require_shape(name: str, shape: Shape) -> None:
    """Raise ConfigError unless every size is at least 1 or None."""
    if not all(size is None or (isinstance(size, int) and size >= 1) for size in shape) or not shape:
        raise ConfigError(f"{name} needs sizes of at least 1, or none for dynamic ones, got {shape!r}")


def require_folder(path: Path) -> None:
    """Raise ConfigError unless a file can be put at ``path``: its folder exists, and no folder has its name."""
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"wanted the name of a file in a folder that exists, got {path}")
