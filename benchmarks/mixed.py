"""Mixed precision against uniform bits: size and accuracy of the same model at several limits of size."""

import argparse
import sys
from pathlib import Path
from typing import Any

from harness import Rows, Setting, compiled, open_rows, table, write_result
from judge import Judge, float_row, our_row
from zoo import LABELLED, Labelled, add_common_options, chosen

from zsq_compile.files import file_bytes

MODELS = ("resnet20_bn", "mobilenetv1_075_bn")


def one_row(judge: Judge, bits: int, extra: str, rows: Rows, options: argparse.Namespace) -> dict[str, Any]:
    """Compile with further options; returns scores, size, words about the widths and the seconds of choosing them."""
    wanted = argparse.Namespace(**{**vars(options), "compile_args": f"{options.compile_args} {extra}".strip()})
    setting = Setting(bits=bits)
    scores, done = our_row(judge, setting, rows, wanted), compiled(judge.path, setting, rows, wanted)
    assert scores is not None
    assert done is not None
    if "top1" not in scores:
        return scores
    mixed = done["report"].get("mixed")
    return {
        **scores,
        "bytes": file_bytes(Path(done["path"])),
        "widths": mixed["chosen"]["bits"] if mixed else "",
        "choosing": done["report"]["stages"].get("choose bits", 0.0),
    }


def lines(judge: Judge, rows: Rows, options: argparse.Namespace) -> list[list[str]]:
    """Return the rows of the table for one model: 8, 4 and 3 bits for all, and mixed widths at and around their sizes.

    All files are made with the same synthetic samples.
    """
    size = file_bytes(judge.path)
    made = [[judge.model.key, "FP32", f"{size / 1e3:.1f}", f"{100 * float_row(judge, rows)['top1']:.2f}", "", ""]]
    data = options.work / f"{judge.model.key}.samples.npz"
    # four bits are learned on more samples than eight need
    four = one_row(judge, 4, f"{'--calib' if data.is_file() else '--save-calib'} {data}", rows, options)
    eight, three = (one_row(judge, bits, f"--calib {data}", rows, options) for bits in (8, 3))
    found = [("8 bits", eight), ("4 bits, edges 8", four), ("3 bits, edges 8", three)]
    if "bytes" in four and "bytes" in eight:
        small, large = four["bytes"], eight["bytes"]
        for limit in (small * 4 // 5, small, small + (large - small) // 3, small + 2 * (large - small) // 3):
            extra = f"--calib {data} --mixed --max-size {limit}"
            found.append((f"mixed, at most {limit / 1e3:.1f} kB", one_row(judge, 8, extra, rows, options)))
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
    header = ["model", "bits of weights", "kB (share of FP32)", "top-1 (agreement)", "layers", "s to choose"]
    body = (
        "Top-1 in percent, in brackets the agreement with FP32. No data, 8-bit activations, seed 0; all files of a\n"
        "model are made with the same synthetic samples. Mixed precision: `--mixed --max-size`, edges among them.\n\n"
    )
    write_result("mixed", "Mixed precision", body + table(header, found))


if __name__ == "__main__":
    main()
