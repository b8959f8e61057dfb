"""Every wild model of the assets through the command line: what comes out, or in which words it is refused."""

import argparse
import sys
from typing import Any

from harness import Setting, compiled, last_words, number, open_rows, table, write_result
from zoo import WILD, add_common_options, chosen


def line(key: str, row: dict[str, Any]) -> list[str]:
    report = row["report"]
    validation = report.get("validation") or {}
    fusion = validation.get("fusion") or {}
    if row["exit_code"] in (0, 4) and validation:
        result, layers = (
            "compiled",
            f"{fusion['fused']} fused, {len(fusion['unfused'])} not, {len(fusion['left_float'])} float",
        )
        told = [*validation.get("failures", []), *validation.get("warnings", [])]
        words = "; ".join([str(report.get("coverage", "")), *told])
    else:
        result, layers, words = ("refused" if row["exit_code"] == 3 else "FAILED"), "", last_words(row)
    return [
        key,
        result,
        str(row["exit_code"]),
        number(validation.get("sqnr_db"), "{:.1f}"),
        number(validation.get("agreement"), "{:.2%}"),
        layers,
        f"{row['seconds']:.0f}",
        words,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="models, or the beginnings of their names (default: all)")
    parser.add_argument("--bits", type=int, default=8, help="weight bits")
    options = parser.parse_args()
    rows = open_rows(options)
    lines = []
    for key in chosen(options.models, WILD):
        print(f"{key} ...", file=sys.stderr, flush=True)
        row = compiled(options.assets / "models" / "wild" / f"{key}.onnx", Setting(bits=options.bits), rows, options)
        if row is not None:
            lines.append(line(key, row))
    header = ["model", "result", "exit code", "lowest SQNR, dB", "agreement", "layers", "seconds", "in its words"]
    body = (
        f"`zsq-compile MODEL --bits {options.bits}`. SQNR and agreement with the "
        "float model in ONNX Runtime, on held-out synthetic data.\n\n" + table(header, lines)
    )
    write_result("wild", "Wild models", body)


if __name__ == "__main__":
    main()
