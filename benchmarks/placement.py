"""What is left in float at each --keep-quality, and what that is worth on real inputs: boxes, texts, decisions, time.

The files are those of the command line with no other option than --effort fast; judge.py beside the models runs them on
real inputs. What the compiler says is measured on synthetic samples that took no part in the choice.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import Setting, compiled, last_words, number, open_rows, table, write_result
from wild2 import judged
from zoo import add_common_options, chosen

QUALITIES = ("off", "fast", "balanced", "best")


def line(folder: Path, key: str, quality: str, row: Mapping[str, Any]) -> list[str]:
    if row["exit_code"] not in (0, 4):
        return [key, quality, last_words(dict(row)), *[""] * 7]
    report = row["report"]
    left = report.get("placement") or {}
    words, least = judged(folder, key, Path(row["path"]))
    before, after = ((left.get(side) or {}) for side in ("before", "after"))
    kept = [number(None if one.get("kept") is None else 100.0 * one["kept"], "{:.0f} %") for one in (before, after)]
    return [
        key,
        quality,
        words,
        least,
        number(report["validation"].get("speedup"), "{:.2f}"),
        f"{len(left.get('values', ()))}, {len(left.get('layers', ()))}",
        " -> ".join(number(one.get("noise_db"), "{:.1f}") for one in (before, after)) if left else "",
        " -> ".join(kept) if left else "",
        f"{report['stages'].get('place', 0.0):.0f} of {sum(report['stages'].values()):.0f}",
        f"{row['cpu_seconds']:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="models, or the beginnings of their names (default: all)")
    parser.add_argument("--qualities", nargs="*", choices=QUALITIES, default=QUALITIES)
    parser.add_argument("--bits", type=int, default=8, help="weight bits")
    options = parser.parse_args()
    rows, folder, lines = open_rows(options), options.assets / "models" / "wild2", []
    given = options.compile_args or "--effort fast"
    judgeable = tuple(sorted(path.name.removesuffix(".inputs.npz") for path in folder.glob("*.inputs.npz")))
    for key in chosen(options.models, judgeable):
        for quality in options.qualities:
            options.compile_args = f"{given} --keep-quality {quality}"
            row = compiled(folder / f"{key}.onnx", Setting(bits=options.bits), rows, options)
            assert row is not None
            lines.append(line(folder, key, quality, row))
            print(f"  {' | '.join(lines[-1])}", file=sys.stderr, flush=True)
    header = ["model", "keep-quality", "on real inputs", "least real SQNR, dB", "speed", "values, layers in float"]
    header += ["dB on samples", "kept on samples", "seconds to place", "CPU seconds"]
    body = (
        f"`zsq-compile MODEL --bits {options.bits} {given} --keep-quality ...`. Speed is the float file's time "
        "over the quantized one's.\n\n" + table(header, lines)
    )
    write_result("placement", "What is left in float", body)


if __name__ == "__main__":
    main()
