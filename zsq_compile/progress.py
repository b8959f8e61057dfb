"""How long work tells its watcher where it stands. The drawing itself is the command line's affair."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a compilation."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Open a stage of ``total`` steps (None: unknown); the context's value is called with steps done."""

    def note(self, text: str) -> None:
        """Tell a fact worth reading once."""

    def detail(self, text: str) -> None:
        """Tell a fact for those who want to know every one."""

    def warn(self, text: str) -> None:
        """Tell something that may make the result worse than the user expects."""


class Silent:
    """A Progress that shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """See Progress.stage."""
        yield lambda steps: None

    def note(self, text: str) -> None:
        """See Progress.note."""

    def detail(self, text: str) -> None:
        """See Progress.detail."""

    def warn(self, text: str) -> None:
        """See Progress.warn."""


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
