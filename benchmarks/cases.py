"""Small graphs after public bug reports, each through the commands that its README names: expected, got, verdict.

A case is a folder with a README, a model, and what else its commands read. check.py beside the cases compares a file
with the float model on inputs that are plausible for the case; what is expected of each command stands in cases.toml.
"""

import argparse
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from harness import Rows, parsed_json, runtime_key, source_key, table, watched, write_result
from zoo import ROOT

from zsq_compile.files import file_sha256

Expected = dict[str, Any]

_COMMAND = re.compile(r"^(?:\$ |Command: `)zsq-compile ([^`;>\n]+)", re.MULTILINE)
_CHECKED = re.compile(r"([^\s:;]+): (-?[\d.]+|inf) dB, around the mean (-?[\d.]+|inf) dB(?:, same argmax ([\d.]+)%)?")
_GOOD = "as expected"
_NEVER = ("internal error", "Traceback")
_KEYS = {"command", "exit", "sqnr", "same", "exact", "ignore", "words", "without", "layers", "size"}
_LIMIT = 1800.0  # seconds; the slowest command takes a tenth of it on a busy machine


def commands(case: Path, expected: Sequence[Expected]) -> list[tuple[str, Expected]]:
    """Pair what README calls, and behind it what ``expected`` calls by itself, with what is expected of each."""
    called = [match.group(1).strip() for match in _COMMAND.finditer((case / "README.md").read_text())]
    listed = [entry for entry in expected if "command" not in entry]
    pairs = list(itertools.zip_longest(called, listed, fillvalue={}))[: len(called)]
    return [*pairs, *((entry["command"], entry) for entry in expected if "command" in entry)]


def run(case: Path, words: str) -> dict[str, Any]:
    """Call the command line in a copy of the case's folder, and compare what it wrote with the float model."""
    with tempfile.TemporaryDirectory(prefix="zsq_case_") as scratch:
        folder = Path(scratch) / case.name
        shutil.copytree(case, folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        arguments = shlex.split(words)
        call = [sys.executable, "-m", "zsq_compile", *arguments]
        if arguments[0] != "inspect":
            call.append("--json")
        row = watched(call, folder, (Path(scratch) / "out", Path(scratch) / "err"), _LIMIT)
        out, err = ((Path(scratch) / name).read_text(errors="replace") for name in ("out", "err"))
        row |= {"words": f"{out}\n{err}".strip(), "report": parsed_json(out), "checked": "", "face": ""}
        output = folder / arguments[arguments.index("-o") + 1] if "-o" in arguments else None
        if output is not None and output.is_file():
            row["checked"] = _checked(case, output)
            row["face"] = _face_difference(folder / "model.onnx", output)
            row["size"] = output.stat().st_size / (folder / "model.onnx").stat().st_size
        return row


def _checked(case: Path, output: Path) -> str:
    call = [sys.executable, str(case.parent / "check.py"), str(case), str(output)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    said = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
    return said.replace(f"{case.parent}{os.sep}", "")


def _face_difference(given: Path, written: Path) -> str:
    """Say where names or types of inputs and outputs differ, or sizes of inputs: those that were open must still be."""
    graphs = [onnx.load(path, load_external_data=False).graph for path in (given, written)]
    constants = {tensor.name for graph in graphs for tensor in graph.initializer}
    for kind in ("input", "output"):
        before, after = ([value for value in getattr(graph, kind) if value.name not in constants] for graph in graphs)
        names = [[value.name for value in values] for values in (before, after)]
        if names[0] != names[1]:
            return f"{kind}s {', '.join(names[1])} instead of {', '.join(names[0])}"
        for one, other in zip(before, after, strict=True):
            types = [value.type.tensor_type for value in (one, other)]
            sizes = [[dim.dim_value for dim in tensor.shape.dim] if kind == "input" else [] for tensor in types]
            if types[0].elem_type != types[1].elem_type or sizes[0] != sizes[1]:
                return f"{kind} '{one.name}' has another type"
    return ""


def misses(row: dict[str, Any], expected: Expected) -> list[str]:
    """Say what of a row is not as expected; empty where all is."""
    text, code = row["words"], row["exit_code"]
    found = [f"'{word}'" for word in _NEVER if word in text]
    found += [f"'{word}'" for word in expected.get("without", ()) if word.lower() in text.lower()]
    found += [f"no word of '{word}'" for word in expected.get("words", ()) if word.lower() not in text.lower()]
    if code not in _listed(expected.get("exit", 0)):
        return [*found, f"exit {code}"]
    if code:  # refused, as it may be
        return found
    found += _noise_misses(row["checked"], expected) + ([f"face: {row['face']}"] if row["face"] else [])
    done, of = layers(row)
    wanted = max(1, of) if expected.get("layers") == "all" else expected.get("layers", 0)
    found += [f"{done} of {of} layers in integers"] if done < wanted else []
    found += [f"{row['size']:.2f} of the size"] if row.get("size", 0.0) > expected.get("size", float("inf")) else []
    return found


def _noise_misses(checked: str, expected: Expected) -> list[str]:
    outputs = {name: figures for name, *figures in _CHECKED.findall(checked) if name not in expected.get("ignore", ())}
    found = []
    if ("sqnr" in expected or "same" in expected) and not outputs:
        found.append("nothing to compare")
    for name, (plain, _, same) in outputs.items():
        if float(plain) < expected.get("sqnr", float("-inf")):
            found.append(f"{name} {plain} dB")
        if same and float(same) < expected.get("same", 0.0):
            found.append(f"{name} {same}% same argmax")
        if name in expected.get("exact", ()) and plain != "inf":
            found.append(f"{name} not bit-equal")
    return found


def layers(row: dict[str, Any]) -> tuple[int, int]:
    """Return how many layers run in integers, and of how many."""
    fusion = (row["report"].get("validation") or {}).get("fusion") or {}
    fused = fusion.get("fused", 0)
    return fused, fused + len(fusion.get("unfused", ())) + len(fusion.get("left_float", ()))


def _listed(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value]


def in_short(expected: Expected) -> str:
    """Say an expectation in a few words."""
    forms = {
        "sqnr": "at least {} dB",
        "same": "{}% same argmax",
        "layers": "{} layers in integers",
        "size": "at most {} of the size",
        "exact": "{} bit-equal",
        "words": "says {}",
        "without": "never says {}",
    }
    parts = [f"exit {' or '.join(map(str, _listed(expected.get('exit', 0))))}"]
    for key, form in forms.items():
        if key in expected:
            value = expected[key]
            parts.append(form.format(", ".join(value) if isinstance(value, list) else value))
    return "; ".join(parts)


def got(row: dict[str, Any]) -> str:
    """Say what came out in a few words."""
    parts = [f"exit {row['exit_code']}", f"{row['seconds']:.0f} s"]
    if row["checked"]:
        done, of = layers(row)
        parts += [row["checked"].replace("\n", "; "), f"{done} of {of} layers", f"{row['size']:.2f} of the size"]
    else:
        lines = [line for line in row["words"].splitlines() if line.strip()]
        parts += [line[:200] for line in lines[-1:] if row["exit_code"]]
    return ", ".join(parts)


def line(case: Path, words: str, expected: Expected, rows: Rows) -> list[str]:
    files = [file_sha256(path) for path in sorted(case.iterdir()) if path.is_file()]
    key = ["case", case.name, words, *files, source_key(), runtime_key()]
    row = rows.get(key, lambda: run(case, words))
    assert row is not None
    found = misses(row, expected)
    return [case.name, f"`{words}`", in_short(expected), got(row), f"**NOT**: {'; '.join(found)}" if found else _GOOD]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    place = Path(os.environ.get("ZSQ_CASES", ROOT.parent / "shared" / "cases" / "graphs"))
    parser.add_argument("--cases", type=Path, default=place, help="folder of cases (default: $ZSQ_CASES)")
    parser.add_argument("--only", nargs="*", help="cases, or the beginnings of their names (default: all)")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", help="finished rows")
    parser.add_argument("--fresh", action="store_true", help="run again what has been run before")
    options = parser.parse_args()
    if not options.cases.is_dir():
        sys.exit(f"there is no folder {options.cases}: give --cases or set ZSQ_CASES")
    known = tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).get(options.cases.name, {})
    rows, lines = Rows(options.work, options.fresh), []
    for readme in sorted(options.cases.glob("*/README.md")):
        case = readme.parent
        if options.only and not any(case.name.startswith(prefix) for prefix in options.only):
            continue
        for words, expected in commands(case, known.get(case.name, [])):
            if unknown := set(expected) - _KEYS:
                sys.exit(f"cases.toml: {case.name} has unknown keys {unknown}")
            print(f"{case.name}: {words} ...", file=sys.stderr, flush=True)
            lines.append(line(case, words, expected, rows))
            print(f"  {lines[-1][-2]}\n  {lines[-1][-1]}", file=sys.stderr, flush=True)
    good = sum(cells[-1] == _GOOD for cells in lines)
    header = ["case", "`zsq-compile ...`", "expected", "got", "verdict"]
    body = f"{good} of {len(lines)} commands do what is expected.\n\n" + table(header, lines)
    write_result("cases" if options.cases.name == "graphs" else f"cases_{options.cases.name}", "Cases", body)


if __name__ == "__main__":
    main()
