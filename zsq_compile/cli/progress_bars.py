"""Progress on stderr: bars with an estimate on a terminal, plain lines anywhere else."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from zsq_compile.progress import Advance

_PLAIN_EVERY = 10.0
"""Seconds between two plain lines about the same stage."""


class ConsoleProgress:
    """A Progress on a console: bars where it is a terminal, plain lines where it is not.

    Args:
        console: where to; the command line gives it stderr.
        verbose: also show details, and how long each stage took.

    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self._open = 0
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            _Done(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """See Progress.stage."""
        started = time.monotonic()
        with self._bar(name, total) if self._console.is_terminal else self._lines(name, total) as advance:
            yield advance
        if self._verbose:
            self._print(f"{name}: {time.monotonic() - started:.1f} s")

    def note(self, text: str) -> None:
        """See Progress.note."""
        self._print(text)

    def detail(self, text: str) -> None:
        """See Progress.detail."""
        if self._verbose:
            self._print(text)

    def warn(self, text: str) -> None:
        """See Progress.warn."""
        self._print(f"warning: {text}", style="yellow")

    @contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[Advance]:
        # Stages may stand inside each other; the drawing starts with the outermost and ends with it.
        if self._open == 0:
            self._bars.start()
        self._open += 1
        task = self._bars.add_task(name, total=total)
        try:
            yield lambda steps: self._bars.advance(task, steps)
        finally:
            self._bars.remove_task(task)
            self._open -= 1
            if self._open == 0:
                self._bars.stop()

    @contextmanager
    def _lines(self, name: str, total: int | None) -> Iterator[Advance]:
        self._print(f"{name} ...")
        started = printed = time.monotonic()
        done = 0

        def advance(steps: int) -> None:
            nonlocal done, printed
            done += steps
            now = time.monotonic()
            # The first steps are slower than the rest, and an estimate from them alone frightens.
            if now - printed >= _PLAIN_EVERY and total and 10 * done >= total:
                printed = now
                left = (now - started) / done * (total - done)
                self._print(f"{name}: {done} of {total}, about {math.ceil(left)} s left")

        yield advance

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _Done(ProgressColumn):
    """Steps done of all; nothing for a stage that does not count."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")
