"""Where the command zsq-compile begins.

``verify`` runs on devices that have onnxruntime and numpy and nothing else, so it is separated from the other commands
before any of them is imported. What needs torch or a runtime is imported when the work begins, so that ``--help``
answers at once. Anything that the commands do, the functions of ``zsq_compile`` do as well.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; ``words`` None takes those of the process. Always ends in SystemExit."""
    arguments = list(sys.argv[1:] if words is None else words)
    if arguments[:1] == ["verify"]:
        from zsq_compile.packaging.verify import main as verify

        sys.exit(verify(arguments[1:], program="zsq-compile verify"))
    # Idle threads of torch's OpenMP spin by default. Beside one other busy process that made the synthesis twenty times
    # slower on two cores; sleeping costs a tenth where nothing else runs. Read when torch is imported, so set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from backends.memory import keep_freed_memory
    from zsq_compile.cli.command import COMMANDS

    keep_freed_memory()
    if arguments and arguments[0] in COMMANDS:
        module, name, arguments = arguments[0], f"zsq-compile {arguments[0]}", arguments[1:]
    else:
        module, name, arguments = "compile", "zsq-compile", arguments or ["--help"]
    import_module(f"zsq_compile.cli.{module}").COMMAND.run(arguments, name)
