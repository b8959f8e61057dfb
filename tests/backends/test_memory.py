import subprocess
import sys

import pytest

from backends.memory import _is_glibc

GROWTH = """
import ctypes
from backends.memory import giving_back, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def left_over():
    before = resident()
    blocks = [libc.malloc(8 << 20) for _ in range(16)]
    for block in blocks:
        ctypes.memset(block, 1, 8 << 20)
    for block in blocks:
        libc.free(block)
    return resident() - before

keep_freed_memory()
with giving_back():
    print(left_over())
print(left_over())
"""


@pytest.mark.skipif(not (sys.platform == "linux" and _is_glibc()), reason="glibc on Linux alone keeps memory")
def test_freed_blocks_are_kept_and_given_back_where_that_is_asked_for():
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    given_back, kept = map(float, done.stdout.split())
    assert given_back < 16 < 100 < kept
