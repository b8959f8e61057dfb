"""Print again what README and the docs show as the output of a command, as today's code prints it.

    python benchmarks/printed_output.py

A page marks such a block with a comment in front of it, ``<!-- output of: zsq-compile inspect model.onnx -->``.
A fenced block gets all that the command prints on stdout, a ``<pre>`` the table and the estimate below it. Times are
those of this machine, so run it on one that does nothing else.
"""

import functools
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- output of: zsq-compile (.+?) -->\n+)(```\n|<pre>\n)(.*?)(```|</pre>)", re.DOTALL)
WIDTH = "100"


@functools.cache
def printed(words: str) -> str:
    """Return what a call of the command line prints on stdout, without blanks at the ends of lines."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": WIDTH}
    command = [sys.executable, "-m", "zsq_compile", *shlex.split(words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n") + "\n"


def table(text: str) -> str:
    """Keep the closing table of a compilation and the estimate below it."""
    rows, _, rest = text.partition("\n\n")
    return textwrap.dedent(rows) + "\n\n" + rest.split(", from", 1)[0] + "\n"


def renewed(match: re.Match[str]) -> str:
    """Return a block with today's output."""
    mark, words, opening, _, closing = match.groups()
    text = printed(words)
    return mark + opening + (table(text) if opening.startswith("<") else text) + closing


def main() -> None:
    """Rewrite the pages that show outputs."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        before = page.read_text(encoding="utf-8")
        after = BLOCK.sub(renewed, before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: renewed")


if __name__ == "__main__":
    main()
