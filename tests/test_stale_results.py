"""benchmarks/stale_results.py on a repository of a few commits; the oracle is the order of the commits."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks/stale_results.py"
TABLE = "benchmarks/results/lowbit.md"


def git(root: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, *names: str) -> str:
    """Commit a change of each file; returns the commit."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("a") as file:
            file.write("a line\n")
    git(root, "add", ".")
    git(root, "commit", "-m", "change")
    return git(root, "rev-parse", "HEAD")


def verdict(root: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--root", str(root), *words], capture_output=True, text=True, check=False
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    commit(tmp_path, "zsq_compile/compiler.py", "zsq_compile/cli/options.py", "passes/emit/emit.py")
    commit(tmp_path, TABLE)
    return tmp_path


def test_a_table_made_last_is_up_to_date(repository: Path) -> None:
    assert verdict(repository, "--strict") == (0, verdict(repository)[1])
    assert "0 of 1 are stale" in verdict(repository)[1]


def test_a_change_of_measured_code_makes_it_stale(repository: Path) -> None:
    commit(repository, "zsq_compile/compiler.py")
    commit(repository, "passes/emit/emit.py")
    code, text = verdict(repository)
    assert (code, "stale: 2 commits since" in text) == (0, True)
    assert verdict(repository, "--strict")[0] == 1
    commit(repository, TABLE)
    assert verdict(repository, "--strict")[0] == 0


def test_what_it_does_not_measure_leaves_it_alone(repository: Path) -> None:
    commit(repository, "zsq_compile/cli/options.py", "README.md")
    assert verdict(repository, "--strict")[0] == 0


def test_each_table_has_its_own_code(repository: Path) -> None:
    commit(repository, "benchmarks/results/matmul.md")
    commit(repository, "zsq_compile/compiler.py")
    lines = verdict(repository)[1].splitlines()
    assert [line.split()[0] for line in lines if "up to date" in line] == ["matmul"]
    assert "1 of 2 are stale" in lines[-1]


def test_listed_moves_do_not_count(repository: Path) -> None:
    moved = commit(repository, "zsq_compile/compiler.py")
    (repository / ".git-blame-ignore-revs").write_text(f"# Pure moves\n{moved}\n")
    assert verdict(repository, "--strict")[0] == 0


def test_a_table_may_name_the_commit_that_it_was_made_at(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    second = commit(repository, "zsq_compile/compiler.py")
    (repository / TABLE).write_text(f"At commit {second[:7]}, and at commit 0123456 of another repository\n\n| a |\n")
    commit(repository, "README.md")
    assert verdict(repository, "--strict")[0] == 0
    (repository / TABLE).write_text(f"At commit {second[:7]}, some rows at commit {first[:7]}\n\n| a |\n")
    commit(repository, "README.md")
    assert "stale: 1 commits since" in verdict(repository)[1]


def test_a_folder_without_history_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--root", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no git history" in done.stderr
