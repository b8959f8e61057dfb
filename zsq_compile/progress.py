"""Progress reporting, and wall-clock time per stage. The command line draws it."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias

from backends.memory import return_free_memory

_WRITING = 1.0  # seconds for writing and loading the file


Advance: TypeAlias = Callable[[int], None]
"""Called with the number of steps, or samples, that are done."""


def ignore_steps(steps: int) -> None:
    """Report no progress."""


class Progress(Protocol):
    """Receives the stages of a compilation, and messages for the user."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` steps (None: unknown); the context's value is called with steps done."""

    def note(self, text: str) -> None:
        """Report a fact about the compilation."""

    def detail(self, text: str) -> None:
        """Report a fact that is shown on request only."""

    def warn(self, text: str) -> None:
        """Report something that may make the result worse than the user expects."""


class Silent:
    """A Progress that shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """See Progress."""
        yield ignore_steps

    def note(self, text: str) -> None:
        """See Progress."""

    def detail(self, text: str) -> None:
        """See Progress."""

    def warn(self, text: str) -> None:
        """See Progress."""


class Remembering:
    """Passes everything on to another Progress, and keeps notes and warnings as ``texts``."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self.stage, self.detail = inner.stage, inner.detail
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        """See Progress."""
        self.texts.append(text)
        self._inner.note(text)

    def warn(self, text: str) -> None:
        """See Progress."""
        self.texts.append(text)
        self._inner.warn(text)


class Clock:
    """Measures the stages of one compilation, and reports them.

    Args:
        progress: receives the stages.
        started: moment, on the clock of ``time.perf_counter``, from which a time budget counts; None is now.

    Attributes:
        progress: receives them, and remembers notes and warnings.
        seconds: wall-clock seconds by stage name, in the order in which the stages began.

    """

    def __init__(self, progress: Progress, started: float | None = None) -> None:
        self.progress = Remembering(progress)
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter() if started is None else started

    def deadline(self, budget: float | None) -> float | None:
        """Moment, on the clock of ``time.perf_counter``, at which learning must end to keep a budget of seconds.

        The steps after it run both networks on the held-out data, which takes longer than calibrating did. None without
        a budget. Warns when nothing is left of it.
        """
        if budget is None:
            return None
        end = self._started + budget - 1.5 * self.seconds.get("calibrate", 0.0) - _WRITING
        if time.perf_counter() > end:
            self.progress.warn(
                f"the time budget of {budget:g} s was used up before learning could begin: nothing is learned"
            )
        return end

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Report and time a stage of ``total`` steps; the context's value is called with steps done."""
        started = time.perf_counter()
        try:
            with self.progress.stage(name, total) as advance:
                yield advance
        finally:
            return_free_memory()  # of tensors of a few megabytes, in whose gaps nothing larger fits
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
