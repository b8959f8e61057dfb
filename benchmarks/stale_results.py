"""Say which tables of results are older than the code that they measure.

    python benchmarks/stale_results.py             # a row per table
    python benchmarks/stale_results.py --strict    # exit code 1 if one is stale

By git history: a table is stale if what its benchmark measures changed after the commit that the table's head names
("commit 1a2b3c4"; of several, the one with most changes after it), or, where it names none, after the table's own last
change. Pure moves, as listed in .git-blame-ignore-revs, do not count; a changed comment does.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILER = ("backends", "passes", "zsq_compile")
SURFACE = ("cli", "comparison", "inspection", "packaging", "reporting")
COMPILED = (*COMPILER, *(f":(exclude)zsq_compile/{room}" for room in SURFACE))
KERNELS = ("backends", "passes/emit")
SYNTHESIS = ("passes/batchnorm", "zsq_compile/batchnorm", "zsq_compile/differentiable", "zsq_compile/synthesis")
MEASURES = {
    "alignment": KERNELS,
    "compare": COMPILER,
    "matmul": KERNELS,
    "rivals": SYNTHESIS,
    "synthesis": SYNTHESIS,
}
"""What a table measures, as paths for git; COMPILED, all that takes part in a compilation, for those not named."""


def git(root: Path, *words: str) -> list[str]:
    """Return the lines that git prints; none where it fails."""
    done = subprocess.run(["git", "-C", str(root), *words], check=False, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def pure_moves(root: Path) -> set[str]:
    """Return the commits that changed no behaviour."""
    path = root / ".git-blame-ignore-revs"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def commits_made_at(root: Path, table: Path) -> list[str]:
    """Return the commits that a table says it was made at, or that of its last change."""
    head = table.read_text(encoding="utf-8").split("\n|", 1)[0]
    named = re.findall(r"commits? ([0-9a-f]{7,40})\b", head)
    known = [name for name in named if git(root, "cat-file", "-t", name) == ["commit"]]
    return known or git(root, "log", "-1", "--format=%h", "--", str(table))


def newer_commits(root: Path, table: Path, moves: set[str]) -> tuple[str, list[str]]:
    """Return the commit that a table was made at, and those after it that changed what the table measures."""
    measured = MEASURES.get(table.stem, COMPILED)
    newer = {
        commit: [one for one in git(root, "rev-list", f"{commit}..HEAD", "--", *measured) if one not in moves]
        for commit in commits_made_at(root, table)
    }
    return max(newer.items(), key=lambda item: len(item[1]))


def main() -> int:
    """Print a row per table; exit code 1 with ``--strict`` where one is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a table is stale")
    options = parser.parse_args()
    root = options.root.resolve()
    if git(root, "rev-parse", "--is-shallow-repository") != ["false"]:
        sys.exit(f"{root} has no git history, or only a part of it: that does not tell when a table was made")
    moves, stale = pure_moves(root), 0
    tables = [root / name for name in git(root, "ls-files", "benchmarks/results/*.md")]
    for table in tables:
        commit, newer = newer_commits(root, table, moves)
        [day] = git(root, "log", "-1", "--format=%ad", "--date=short", commit)
        stale += bool(newer)
        print(f"{table.stem:14} {day} {commit[:7]}  {f'stale: {len(newer)} commits since' if newer else 'up to date'}")
    print(f"{stale} of {len(tables)} are stale")
    return 1 if stale and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
