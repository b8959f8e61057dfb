"""Models with real inputs through the command line with no option, judged by what their users would look at.

judge.py beside the models runs a file on real inputs, and tells how many boxes, texts or decisions stayed. The limits
of the verdict: speed not below the float file's, memory by the size of the float file, and no file larger than that.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import Setting, compiled, last_words, number, open_rows, table, write_result
from zoo import add_common_options, chosen

LEAST_SPEED = 0.97
MEMORY_MB, MEMORY_TIMES = 1536, 4  # peak: this much, and so many times the float model
SMALL_MB = 0.1  # a graph without weights to speak of grows by its scales

_JUDGED = re.compile(r": (?P<words>.*); SQNR .*least (?P<least>\S+) dB;")


def judged(folder: Path, key: str, output: Path) -> tuple[str, str]:
    """Return what stayed on real inputs in words, and the least SQNR of an output on them."""
    if not (folder / f"{key}.inputs.npz").is_file():
        return "", ""
    call = [sys.executable, str(folder / "judge.py"), key, str(output)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    found = _JUDGED.search(done.stdout)
    return (found["words"], found["least"]) if found else (done.stderr.strip().splitlines()[-1], "")


def misses(folder: Path, row: dict[str, Any], speed: float | None, share: float | None, float_mb: float) -> list[str]:
    """Say what is not as it must be; empty where all is."""
    if row["exit_code"] not in (0, 4):
        return [f"exit {row['exit_code']}: {last_words(row).replace(f'{folder}{os.sep}', '')}"]
    found = [f"speed {speed:.2f}"] if speed is not None and speed < LEAST_SPEED else []
    found += [f"{share:.2f} of the size"] if share is not None and share > 1.0 and float_mb > SMALL_MB else []
    limit = MEMORY_MB + MEMORY_TIMES * float_mb
    return found + ([f"{row['peak_mb']:.0f} MB of at most {limit:.0f}"] if row["peak_mb"] > limit else [])


def line(folder: Path, key: str, row: dict[str, Any]) -> list[str]:
    given, output = folder / f"{key}.onnx", Path(row["path"])
    validation = row["report"].get("validation") or {}
    fusion = validation.get("fusion") or {}
    words, least = judged(folder, key, output) if output.is_file() else ("", "")
    share = output.stat().st_size / given.stat().st_size if output.is_file() else None
    speed = validation.get("speedup")
    found = misses(folder, row, speed, share, given.stat().st_size / 2**20)
    of = sum(len(fusion.get(kind, ())) for kind in ("unfused", "left_float")) + fusion.get("fused", 0)
    return [
        key,
        str(row["exit_code"]),
        f"**NOT**: {'; '.join(found)}" if found else "compiled",
        f"{fusion['fused']}/{of}" if fusion else "",
        number(validation.get("sqnr_db"), "{:.1f}"),
        least,
        words,
        number(share, "{:.2f}"),
        number(speed, "{:.2f}"),
        f"{row['cpu_seconds']:.0f}",
        f"{row['peak_mb']:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="models, or the beginnings of their names (default: all)")
    parser.add_argument("--bits", type=int, default=8, help="weight bits")
    options = parser.parse_args()
    rows, folder, lines = open_rows(options), options.assets / "models" / "wild2", []
    for key in chosen(options.models, tuple(sorted(path.stem for path in folder.glob("*.onnx")))):
        print(f"{key} ...", file=sys.stderr, flush=True)
        row = compiled(folder / f"{key}.onnx", Setting(bits=options.bits), rows, options)
        assert row is not None
        lines.append(line(folder, key, row))
        print(f"  {' | '.join(lines[-1])}", file=sys.stderr, flush=True)
    header = ["model", "exit", "verdict", "in integers", "SQNR said, dB", "least real SQNR, dB", "on real inputs"]
    header += ["size", "speed", "CPU seconds", "peak MB"]
    told = f" {options.compile_args}" if options.compile_args else ""
    body = (
        f"`zsq-compile MODEL --bits {options.bits}{told}`. Speed is the float file's time over the quantized one's, "
        "and size the quantized file's over the float one's.\n\n" + table(header, lines)
    )
    write_result("wild2", "Models with real inputs", body)


if __name__ == "__main__":
    main()
