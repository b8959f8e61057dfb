"""Memory of the process, as the system counts it: what the C library does with freed blocks, where it is glibc."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT, _LARGEST_KEPT = 1 << 28, 1 << 24  # bytes
_SMALLEST_GIVEN_BACK = 1 << 20  # bytes


@dataclass(slots=True)
class _Policy:
    """Bytes from which on freed blocks go back; None where the C library decides."""

    given_back: int | None = None


_policy = _Policy()


def keep_freed_memory() -> None:
    """Let glibc keep freed tensors for the next ones.

    By default each goes back to the system and is filled with zeros, page by page, when it comes again: that was a
    seventh of the time of a compilation at 224 pixels. The largest do go back, or memory would fall to pieces.
    """
    if _is_glibc():
        ctypes.CDLL(None).mallopt(_TRIM_THRESHOLD, _KEPT)
        _give_back_from(_LARGEST_KEPT)


@contextmanager
def giving_back() -> Iterator[None]:
    """Give large blocks back as they are freed, meanwhile, and at the end what holes they were put in.

    An aligned block needs a hole that is larger than itself, so what comes and goes does not fit where it was, and
    memory that is kept grows to several times what a run holds.
    """
    before = _policy.given_back
    if before is not None:
        _give_back_from(_SMALLEST_GIVEN_BACK)
    try:
        yield
    finally:
        if before is not None:
            _give_back_from(before)
            return_free_memory()


def return_free_memory() -> None:
    """Give memory that was freed back to the system."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _give_back_from(size: int) -> None:
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, size)
    _policy.given_back = size


def _is_glibc() -> bool:
    return hasattr(os, "confstr_names") and "CS_GNU_LIBC_VERSION" in os.confstr_names
