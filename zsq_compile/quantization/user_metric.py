"""A user's own metric: a command that prints a number for a file, and how much of it another file keeps."""

import math
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zsq_compile.errors import ConfigError

_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)(?![\w])", re.IGNORECASE
)
_SHOWN = 5  # lines of what a command said


@dataclass(frozen=True, kw_only=True, slots=True)
class UserMetric:
    """A command with ``{model}`` where the path of a file belongs, larger numbers being better.

    It is split into words as a POSIX shell would, on all systems, and run without one, in the current folder; it takes
    as long as it takes, and ends with this process.
    """

    command: str

    def measure(self, path: Path) -> float:
        """Run the command for a file. ConfigError where it fails, or prints no number that can be compared."""
        words = [word.replace("{model}", str(path)) for word in shlex.split(self.command)]
        try:
            ran = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
            )
        except OSError as error:
            raise ConfigError(f"metric: {words[0]} cannot be run: {error.strerror or error}") from error
        if ran.returncode != 0:
            raise ConfigError(f"metric: {self.command} ended with exit code {ran.returncode}{_said(ran.stderr)}")
        found = _NUMBER.findall(ran.stdout)
        if not found:
            raise ConfigError(
                f"metric: {self.command} printed no number, and its last one would count; it printed "
                f"{ran.stdout.strip()[-80:]!r}{_said(ran.stderr)}"
            )
        value = float(found[-1])
        if not math.isfinite(value):
            raise ConfigError(f"metric: {self.command} printed {found[-1]} for {path.name}, which cannot be compared")
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRun:
    """What a command said of one file: ``what`` in words, and ``kept`` as of ``share_kept``."""

    what: str
    value: float
    kept: float


def share_kept(value: float, reference: float) -> float:
    """Share of a reference that a number keeps: 1 where it is no smaller, 0.99 where it lacks 1 % of its size."""
    if value >= reference:
        return 1.0
    return max(1.0 - (reference - value) / abs(reference), 0.0) if reference else 0.0


def least_that_keeps(count: int, kept: Callable[[int], float], floor: float) -> tuple[int, bool]:
    """Find the least k from 0 to ``count`` whose share is at least ``floor``, by bisection.

    Asks about 2 + log2(count) times, and takes for granted that shares rise with k.

    Args:
        count: of candidates in an order, the first k of which are taken.
        kept: the share for k.
        floor: of it.

    Returns:
        k, and whether its share reaches the floor; where none does, k is ``count``.

    """
    if kept(0) >= floor:
        return 0, True
    if count == 0 or kept(count) < floor:
        return count, False
    low, high = 0, count  # ``high`` keeps the floor, ``low`` does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(middle) >= floor else (middle, high)
    return high, True


def _said(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()][-_SHOWN:]
    return ":\n  " + "\n  ".join(lines) if lines else ""
