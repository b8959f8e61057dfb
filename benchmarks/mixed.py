"""Mixed widths against one width for all layers: size and accuracy of the same model at several limits of size."""

import argparse
import sys
from pathlib import Path
from typing import Any

from accuracy import Judge
from harness import Rows, compiled, last_words, open_rows, runtime_key, source_key, table, write_result
from zoo import LABELLED, Labelled, add_common_options, chosen

from zsq_compile.verification.report import file_sha256
from zsq_compile.verification.running import file_bytes

MODELS = ("resnet20_bn", "mobilenetv1_075_bn")


def one_row(judge: Judge, bits: int, extra: str, rows: Rows, options: argparse.Namespace) -> dict[str, Any]:
    """Compile with further options and judge the file: size, top-1, agreement, words about the widths, seconds."""
    model = judge.model.path(options.assets)
    wanted = argparse.Namespace(**{**vars(options), "compile_args": f"{options.compile_args} {extra}".strip()})

    def make() -> dict[str, Any]:
        done = compiled(model, bits, rows, wanted)
        assert done is not None
        path = Path(done["path"])
        if not path.is_file():
            return {"error": last_words(done), "exit_code": done["exit_code"]}
        report = done["report"]
        mixed = report.get("mixed")
        return {
            **judge.scores(path),
            "bytes": file_bytes(path),
            "widths": mixed["chosen"]["bits"] if mixed else "",
            "choosing": report["stages"].get("choose widths", 0.0),
            "exit_code": done["exit_code"],
        }

    key = ["mixed", file_sha256(model), str(bits), source_key(), runtime_key(), wanted.compile_args]
    row = rows.get(key, make)
    assert row is not None
    return row


def lines(judge: Judge, rows: Rows, options: argparse.Namespace) -> list[list[str]]:
    """Return the rows of the table for one model: 8 and 4 bits for all, and mixed widths at and around those sizes."""
    float_row = rows.get(
        ["fp32", file_sha256(judge.model.path(options.assets)), runtime_key()],
        lambda: judge.scores(judge.model.path(options.assets)),
    )
    assert float_row is not None
    size = file_bytes(judge.model.path(options.assets))
    made = [[judge.model.key, "FP32", f"{size / 1e3:.1f}", f"{100 * float_row['top1']:.2f}", "", ""]]
    data = options.work / f"{judge.model.key}.calib.npz"
    eight = one_row(judge, 8, f"--save-calib {data}" if not data.is_file() else f"--calib {data}", rows, options)
    keep = f"--calib {data}"
    four, three = (one_row(judge, bits, keep, rows, options) for bits in (4, 3))
    small, large = four["bytes"], eight["bytes"]
    limits = [small * 4 // 5, small, small + (large - small) // 3, small + 2 * (large - small) // 3]
    found = [("8 bits", eight), ("4 bits, edges 8", four), ("3 bits, edges 8", three)]
    for limit in limits:
        found.append(
            (
                f"mixed, at most {limit / 1e3:.1f} kB",
                one_row(judge, 8, f"{keep} --mixed --max-size {limit}", rows, options),
            )
        )
    for name, row in sorted(found, key=lambda one: -one[1].get("bytes", 0)):
        if "top1" not in row:
            made.append(["", name, f"failed: {row['error']}", "", "", ""])
            continue
        scores = f"{100 * row['top1']:.2f} ({100 * row['agreement']:.2f})"
        seconds = f"{row['choosing']:.0f}" if row["widths"] else ""
        made.append(["", name, f"{row['bytes'] / 1e3:.1f} ({row['bytes'] / size:.3f})", scores, row["widths"], seconds])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="models, or the beginnings of their names")
    options = parser.parse_args()
    rows = open_rows(options)
    models: dict[str, Labelled] = {model.key: model for model in LABELLED}
    found: list[list[str]] = []
    for key in chosen(options.models, tuple(models)):
        print(f"{key} ...", file=sys.stderr, flush=True)
        found += lines(Judge(models[key], options.assets), rows, options)
    header = ["model", "widths of weights", "kB (share of FP32)", "top-1 (agreement)", "layers", "s to choose"]
    body = (
        "Top-1 in percent, in brackets the agreement with FP32. No data, 8-bit activations, seed 0; all files of a\n"
        "model are made with the same synthetic samples. Mixed widths: `--mixed --max-size`, edges among them.\n\n"
    )
    write_result("mixed", "Mixed widths", body + table(header, found))


if __name__ == "__main__":
    main()
