"""Sizes, times, shapes and lists as people write them, on the command line and in a configuration file."""

from typing import Literal

from zsq_compile.config.checks import Bounds, Shape, parse_size, require_number, require_shape
from zsq_compile.errors import ConfigError


def parse_shape(text: str) -> Shape:
    """Read ``1x3x224x224``; ``?`` stands for a size that stays dynamic. ConfigError when it is none."""
    sizes = [size.strip() for size in text.lower().split("x")]
    if not all(size == "?" or size.isdecimal() for size in sizes):
        raise ConfigError(f"a shape is written 1x3x224x224, with ? for a dynamic size, got {text!r}")
    shape = tuple(None if size == "?" else int(size) for size in sizes)
    require_shape("shape", shape)
    return shape


def parse_named_shape(text: str) -> tuple[str, Shape]:
    """Read ``NAME:1x3x224x224``; ConfigError when it is none."""
    # Names may hold colons (ImageTensor:0), so the last one separates.
    name, separator, sizes = text.rpartition(":")
    if not separator or not name:
        raise ConfigError(f"a shape of an input is written NAME:1x3x224x224, got {text!r}")
    return name, parse_shape(sizes)


def parse_numbers(text: str) -> tuple[float, ...]:
    """Read ``0.5,0.5,0.5``; ConfigError when it is none."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise ConfigError(f"wanted numbers with commas between them, got {text!r}") from error


def parse_layer_bits(text: str) -> tuple[str, int | Literal["float"]]:
    """Read ``/head/*=8`` or ``/head/*=float``; ConfigError when it is none."""
    pattern, separator, width = text.rpartition("=")
    if not separator or not pattern or not (width == "float" or width.isdecimal()):
        raise ConfigError(f"bits of layers are written PATTERN=8 or PATTERN=float, got {text!r}")
    return pattern, "float" if width == "float" else int(width)


def parse_classes(text: str) -> tuple[int, ...]:
    """Read ``3,7``; ConfigError when it is none."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise ConfigError(f"wanted numbers with commas between them, such as 3,7, got {text!r}") from error


def parse_seconds(text: str) -> float:
    """Read ``90s``, ``10m``, ``1.5h`` or plain seconds; ConfigError when it is none."""
    units, wanted = {"s": 1.0, "m": 60.0, "h": 3600.0}, "a time is written 90s, 10m or 1h"
    factor = units.get(text[-1:].lower())
    try:
        number = float(text if factor is None else text[:-1])
    except ValueError as error:
        raise ConfigError(f"{wanted}, got {text!r}") from error
    require_number("a time", number, Bounds(above=0.0, hint=wanted))
    return number * (factor or 1.0)


def parse_bytes(text: str) -> int:
    """Read ``500M``, ``2G`` or plain bytes; ConfigError when it is none."""
    return int(parse_size(text))


def size_words(count: int) -> str:
    """Say a number of bytes, in units of 1000."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
