"""Memory of the process, as the system counts it."""

import ctypes
import sys


def return_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library keeps it for itself (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
