"""Where the command zsq-compile begins.

``verify`` runs on devices that have onnxruntime and numpy and nothing else, so it is told from the other commands
before any of them is imported.
"""

import sys
from collections.abc import Sequence


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; ``words`` None takes those of the process. Always ends in SystemExit."""
    arguments = list(sys.argv[1:] if words is None else words)
    if arguments[:1] == ["verify"]:
        from zsq_compile.packaging.verify import main as verify

        sys.exit(verify(arguments[1:], program="zsq-compile verify"))
    from zsq_compile.cli.compile import main as others

    others(arguments)
