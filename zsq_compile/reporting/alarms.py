"""What puts a whole result in doubt, whatever its figures say: told before them."""

from dataclasses import dataclass
from typing import Literal

AlarmKind = Literal["input", "statistics", "output", "ranges"]


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

    """

    kind: AlarmKind
    where: str
    words: str
    advice: str

    def describe(self) -> str:
        """Return all of it as one sentence."""
        return f"{self.where}: {self.words}; {self.advice}"
