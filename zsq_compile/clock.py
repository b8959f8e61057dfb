"""Seconds by stage, shown to whoever watches while they pass."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zsq_compile.progress import Progress

_TAIL = 1.0  # seconds that writing and loading the file take


class Clock:
    """Times the stages of one compilation.

    Args:
        progress: shows them.
        started: moment, on the clock of ``time.perf_counter``, at which the user began to wait; None is now.

    Attributes:
        progress: whoever watches.
        seconds: wall-clock seconds by stage name, in the order in which the stages began.

    """

    def __init__(self, progress: Progress, started: float | None = None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter() if started is None else started

    def deadline(self, budget: float | None) -> float | None:
        """Moment, on the clock of ``time.perf_counter``, at which learning has to end to keep a budget of seconds.

        What comes behind it runs the float and the quantized network on the data held out, which takes longer than
        calibrating did. None without a budget. Whoever watches is told when nothing is left of it.
        """
        if budget is None:
            return None
        end = self._started + budget - 1.5 * self.seconds.get("calibrate", 0.0) - _TAIL
        if time.perf_counter() > end:
            self.progress.warn(
                f"the time budget of {budget:g} s was used up before learning could begin: nothing is learned"
            )
        return end

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show and time a stage of ``total`` steps; the context's value is called with steps done."""
        started = time.perf_counter()
        try:
            with self.progress.stage(name, total) as advance:
                yield advance
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
