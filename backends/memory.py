"""Memory of the process, as the system counts it: what the C library does with freed blocks, where it is glibc."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT, _LARGEST_KEPT = 1 << 28, 1 << 27  # bytes
_SMALLEST_GIVEN_BACK = 1 << 20  # bytes


@dataclass(slots=True)
class _Policy:
    keeps: bool = False


_policy = _Policy()


def keep_freed_memory() -> None:
    """Let glibc keep freed tensors for the next ones.

    By default each goes back to the system and is filled with zeros, page by page, when it comes again: that was a
    seventh of the time of a compilation at 224 pixels. The largest do go back, or memory would fall to pieces.
    """
    if _is_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        _policy.keeps = True


@contextmanager
def giving_back() -> Iterator[None]:
    """Give every large block back as it is freed, meanwhile, though freed memory is kept else.

    An aligned block needs a hole that is larger than itself, so what comes and goes does not fit where it was, and
    memory that is kept grows to several times what a run holds.
    """
    if not _policy.keeps:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, _SMALLEST_GIVEN_BACK)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)


def return_free_memory() -> None:
    """Give memory that was freed back to the system."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    return hasattr(os, "confstr_names") and "CS_GNU_LIBC_VERSION" in os.confstr_names
