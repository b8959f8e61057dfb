"""What puts a whole result in doubt, whatever its figures say: told before them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

AlarmKind = Literal["input", "statistics", "output", "ranges"]
Degree = Literal["alarm", "doubt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """A reason not to trust the figures of a compilation.

    Attributes:
        kind: "input": how it is prepared is open, or nothing explains it. "statistics": the samples are far from those
            of the training data. "output": it is the same for all samples. "ranges": other families of samples reach
            far beyond those that were calibrated on.
        where: the input, output or layer.
        words: what is wrong.
        advice: what to do about it.
        degree: "alarm": the figures are not to be trusted. "doubt": they hold if the input is prepared in one of the
            ways that the file is made for, and nobody has said that it is.

    """

    kind: AlarmKind
    where: str
    words: str
    advice: str
    degree: Degree = "alarm"

    def describe(self) -> str:
        """Return all of it as one sentence."""
        return f"{self.where}: {self.words}; {self.advice}"


def headline(alarms: Sequence[Alarm]) -> str:
    """Return what stands above alarms, without a mark at its end."""
    counts = [(degree, sum(one.degree == degree for one in alarms)) for degree in ("alarm", "doubt")]
    listed = " and ".join(f"{count} {degree}{'s' if count > 1 else ''}" for degree, count in counts if count)
    grave = any(one.degree == "alarm" for one in alarms)
    return (
        f"{'Do not trust this file as it is' if grave else 'Check the input before you rely on this file'} ({listed})"
    )
