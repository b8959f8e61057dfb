"""What the benchmarks share: calling zsq-compile as a user does, keeping finished rows, and writing tables."""

import argparse
import datetime
import functools
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import ROOT

from zsq_compile.files import file_sha256
from zsq_compile.reporting.report import installed_versions

_FINAL = frozenset({0, 3, 4, 5, 6})  # exit codes that the same source gives again; a crash or a kill is tried again
RESULTS = Path(__file__).resolve().parent / "results"
_PLACES = ("--assets", "--cases", "--work", "--known")


class Rows:
    """Finished rows, each in a file of its own, so that a killed run loses nothing.

    A row is found again only under the same key, and the key holds whatever the row depends on.
    """

    def __init__(self, folder: Path, fresh: bool) -> None:
        self._folder = folder / "rows"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._fresh = fresh
        self._made: set[Path] = set()

    def get(
        self, key: Sequence[str], make: Callable[[], dict[str, Any]] | None, *, again: bool = False
    ) -> dict[str, Any] | None:
        """Return the row of a key, made now if it must be; None when it is not there and ``make`` is None."""
        place = self._folder / f"{hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:24]}.json"
        if place.is_file() and not (make is not None and (again or (self._fresh and place not in self._made))):
            return dict(json.loads(place.read_text()))
        if make is None:
            return None
        row = make()
        self._made.add(place)
        if row.get("exit_code", 0) not in _FINAL:
            return row
        scratch = place.with_suffix(".part")
        scratch.write_text(json.dumps({"key": list(key), **row}, indent=1))
        scratch.replace(place)
        return row


def open_rows(options: argparse.Namespace) -> Rows:
    """Return the finished rows that the common options point to; ends the script where the assets are not there."""
    if not options.assets.is_dir():
        sys.exit(f"there is no folder {options.assets}: give --assets or set ZSQ_ASSETS")
    return Rows(options.work, options.fresh)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one compilation is told: widths in bits, a seed, and where the calibration data comes from.

    ``calib`` is a file of data, ``generator`` the name of what makes it; None for the compiler's own choice.
    """

    bits: int = 8
    act_bits: int = 8
    seed: int = 0
    calib: Path | None = None
    generator: str | None = None

    def key(self) -> list[str]:
        """Say what a row depends on."""
        data = "" if self.calib is None else file_sha256(self.calib)
        named = [] if self.generator is None else [self.generator]
        return [str(self.bits), str(self.act_bits), str(self.seed), data, *named]

    def file_name(self, stem: str) -> str:
        """Name the quantized file, without its ending."""
        data = f".{self.generator}" if self.generator else "" if self.calib is None else ".real"
        return f"{stem}.w{self.bits}a{self.act_bits}.s{self.seed}{data}"

    def words(self) -> list[str]:
        """Say it to the command line."""
        words = ["--bits", str(self.bits), "--act-bits", str(self.act_bits), "--seed", str(self.seed)]
        if self.generator is not None:
            words += ["--generator", self.generator]
        return words if self.calib is None else [*words, "--calib", str(self.calib)]


def compiled(
    model: Path, setting: Setting, rows: Rows, options: argparse.Namespace, *, make: bool = True
) -> dict[str, Any] | None:
    """Return what one call of the command line gave, run now unless it ran before from the same source.

    The row holds path, exit_code, seconds from process start to exit, peak_mb (largest resident set of the process),
    the JSON report, and the words on stderr. None when it did not run before and ``make`` is False.
    """
    source = source_key()
    key = ["compiled", file_sha256(model), *setting.key(), source, runtime_key(), options.compile_args]
    suffix = f".{hashlib.sha256(options.compile_args.encode()).hexdigest()[:6]}" if options.compile_args else ""
    output = options.work / "ours" / source[:12] / f"{setting.file_name(model.stem)}{suffix}.onnx"
    row = rows.get(key, (lambda: _compile(model, setting, output, options.compile_args)) if make else None)
    if row is not None and row["exit_code"] in (0, 4) and not output.is_file():
        if not make:
            return None
        return rows.get(key, lambda: _compile(model, setting, output, options.compile_args), again=True)
    return row


def _compile(model: Path, setting: Setting, output: Path, extra: str) -> dict[str, Any]:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "zsq_compile", str(model), "-o", str(output), *setting.words()]
    command += ["--json", "-q", *shlex.split(extra)]
    logs = output.with_suffix(".stdout"), output.with_suffix(".stderr")
    return {
        "path": str(output),
        **watched(command, ROOT, logs),
        "report": parsed_json(logs[0].read_text(errors="replace")),
        "words": logs[1].read_text(errors="replace").strip(),
    }


def watched(
    command: Sequence[str], folder: Path, logs: tuple[Path, Path], limit: float | None = None
) -> dict[str, Any]:
    """Run a command in a folder, its stdout and stderr in files; it is killed after ``limit`` seconds.

    Returns exit_code, seconds from process start to exit, cpu_seconds, and peak_mb (largest resident set).
    """
    start = time.perf_counter()
    with logs[0].open("wb") as out, logs[1].open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=folder)
        timer = threading.Timer(limit or threading.TIMEOUT_MAX, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this child alone
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "exit_code": process.returncode,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / (2**20 if platform.system() == "Darwin" else 1024),
    }


def last_words(row: dict[str, Any]) -> str:
    """Return the sentence with which a failed compilation ended."""
    lines = [line.strip() for line in row["words"].splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {row['exit_code']}, without a word"


@functools.cache
def source_key() -> str:
    """Hash of the compiler's own source: rows of ours hold for this source only."""
    digest = hashlib.sha256()
    for package in ("zsq_compile", "passes", "backends"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".toml"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def runtime_key() -> str:
    """Versions that rows of onnxruntime depend on."""
    versions = installed_versions()
    return " ".join(f"{name} {versions.get(name, '-')}" for name in ("onnx", "onnxruntime"))


def number(value: float | None, form: str) -> str:
    """Format a figure for a table; nothing for None."""
    return "" if value is None else form.format(value)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def options_given(compile_args: str) -> str:
    """Say with which options files were compiled."""
    return f"options `{compile_args}`" if compile_args else "default options"


def source_commit() -> str:
    """Name the commit of the source, and whether the source differs from it; empty outside of a repository."""
    state = ["git", "-C", str(ROOT), "status", "--porcelain", "zsq_compile", "passes", "backends"]
    words = [["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], state]
    done = [subprocess.run(command, capture_output=True, text=True, check=False) for command in words]
    if any(one.returncode for one in done):
        return ""
    return f", at commit {done[0].stdout.strip()}{' with changes' if done[1].stdout else ''}"


def _without_places(words: Sequence[str]) -> list[str]:
    """Leave out options that tell where things lie on this machine, and that rows are measured anew."""
    kept, before = [], ""
    for word in words:
        if (
            before not in _PLACES
            and word not in _PLACES
            and word.partition("=")[0] not in _PLACES
            and word != "--fresh"
        ):
            kept.append(word)
        before = word
    return kept


def write_result(name: str, title: str, body: str) -> None:
    """Print a result and write it to results/NAME.md with the command, the date, the commit and the versions."""
    versions = ", ".join(f"{key} {value}" for key, value in installed_versions().items())
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *_without_places(sys.argv[1:])]
    command = " ".join(map(shlex.quote, words))
    head = (
        f"# {title}\n\nCommand: `{command}`\n\nDate: {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
        f"{source_commit()}. {os.cpu_count()} processors. {versions}.\n\n"
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(head + body + "\n")
    print(body)


def parsed_json(text: str) -> dict[str, Any]:
    """Return a JSON object, or an empty one where the text is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
