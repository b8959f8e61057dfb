"""Let nothing out of the public functions that only a reader of the source could understand."""

from collections.abc import Iterator
from contextlib import contextmanager

from backends.session import RuntimeModelError
from zsq_compile.errors import QuantizationError, ZsqError


@contextmanager
def told_in_words() -> Iterator[None]:
    """Raise what graph passes and the runtime raise as a ZsqError that tells the innermost cause.

    Anything else is a bug, and keeps its type.
    """
    try:
        yield
    except ZsqError:
        raise
    except Exception as error:
        from passes.checks import IllegalGraphError
        from passes.graph_pass import PASS_ERRORS, innermost

        cause = innermost(error)
        if isinstance(cause, ZsqError):
            raise cause from error
        if not isinstance(error, (IllegalGraphError, RuntimeModelError, *PASS_ERRORS)):
            raise
        own = isinstance(cause, (IllegalGraphError, RuntimeModelError, *PASS_ERRORS))
        raise QuantizationError(str(cause) if own else f"{type(cause).__name__}: {cause}") from error
