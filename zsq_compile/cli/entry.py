"""Where the command zsq-compile begins.

``verify`` runs on devices that have onnxruntime and numpy and nothing else, so it is separated from the other commands
before any of them is imported. What needs torch or a runtime is imported when the work begins, so that ``--help``
answers at once. Anything that the commands do, the functions of ``zsq_compile`` do as well.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from importlib import import_module

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; ``words`` None takes those of the process. Always ends in SystemExit."""
    arguments = list(sys.argv[1:] if words is None else words)
    if arguments[:1] == ["verify"]:
        from zsq_compile.packaging.verify import main as verify

        sys.exit(verify(arguments[1:], program="zsq-compile verify"))
    # Idle threads of torch's OpenMP spin by default. Beside one other busy process that made the synthesis twenty times
    # slower on two cores; sleeping costs a tenth where nothing else runs. Read when torch is imported, so set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_freed_memory()
    from zsq_compile.cli.command import COMMANDS

    if arguments and arguments[0] in COMMANDS:
        module, name, arguments = arguments[0], f"zsq-compile {arguments[0]}", arguments[1:]
    else:
        module, name, arguments = "compile", "zsq-compile", arguments or ["--help"]
    import_module(f"zsq_compile.cli.{module}").COMMAND.run(arguments, name)


def _keep_freed_memory() -> None:
    """Let glibc keep freed tensors for the next ones, where there is a glibc.

    By default each goes back to the system and is filled with zeros, page by page, when it comes again: that was a
    seventh of the time of a compilation at 224 pixels. The largest do go back, or memory would fall to pieces.
    """
    if hasattr(os, "confstr_names") and "CS_GNU_LIBC_VERSION" in os.confstr_names:
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 28)
        libc.mallopt(_MMAP_THRESHOLD, 1 << 27)
