"""Accuracy without data against FP32 and onnxruntime's own quantizer with and without data, on the same images."""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from harness import Rows, Setting, open_rows, options_given, runtime_key, table, write_result
from judge import Judge, float_row, our_row
from zoo import LABELLED, add_common_options, chosen

from zsq_compile.comparison.onnxruntime_quantizer import METHODS, BaselineSettings, quantize_with_onnxruntime
from zsq_compile.files import file_sha256

BASELINES = ("ORT defaults, real data", "ORT best, real data", "ORT defaults, random data", "ORT best, random data")


def onnxruntime_row(judge: Judge, settings: BaselineSettings, real: bool) -> dict[str, Any]:
    model = judge.model
    batches = model.calibration_batches(judge.assets) if real else model.random_batches(judge.assets)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "quantized.onnx"
        start = time.perf_counter()
        try:
            quantize_with_onnxruntime(judge.path, output, batches, settings)
            row: dict[str, Any] = {"seconds": time.perf_counter() - start, "settings": str(settings)}
            return row | judge.scores(output)
        except ValueError as error:
            return {"error": str(error).splitlines()[0]}


def gather(judge: Judge, bits: int, name: str, rows: Rows, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return one cell of the table: from the finished rows, or made now when it was asked for."""
    base = [file_sha256(judge.path), str(bits)]
    wanted = options.only is None or options.only == ("ours" if name == "ours" else "baseline")
    if name == "FP32":
        return float_row(judge, rows)
    if name == "ours":
        return our_row(judge, Setting(bits=bits), rows, options, make=wanted)
    real = name.endswith("real data")
    if "defaults" in name:
        if bits != 8:
            return None
        key = ["ort-defaults", str(real), *base, runtime_key()]
        return rows.get(key, (lambda: onnxruntime_row(judge, BaselineSettings(tuned=False), real)) if wanted else None)
    found = []
    weight_bits: Literal[4, 8] = 8 if bits == 8 else 4
    for method in METHODS:
        settings = BaselineSettings(weight_bits=weight_bits, method=method)
        key = ["ort", str(settings), str(real), *base, runtime_key()]
        make = (lambda chosen=settings: onnxruntime_row(judge, chosen, real)) if wanted else None
        found.append(rows.get(key, make))
    good = [row for row in found if row and "top1" in row]
    return max(good, key=lambda row: (row["top1"], row["agreement"])) if good else next(iter(filter(None, found)), None)


def cell(row: dict[str, Any] | None, name: str) -> str:
    if row is None:
        return "-"
    if "top1" not in row:
        return f"failed: {row.get('error', '?')}"
    text = f"{100 * row['top1']:.2f}"
    if name != "FP32":
        text += f" ({100 * row['agreement']:.2f})"
    if "best" in name:
        text += f" {row['settings'].rsplit(', ', 1)[-1]}"
    if name == "ours":
        text += f", {row['seconds']:.0f} s, {row['peak_mb'] / 1024:.1f} GB"
        text += "" if row["exit_code"] == 0 else f", exit code {row['exit_code']}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="models, or the beginnings of their names (default: all)")
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 4], help="weight bits")
    parser.add_argument(
        "--only", choices=("ours", "baseline"), help="run only these; finished rows are shown all the same"
    )
    options = parser.parse_args()
    rows = open_rows(options)
    models = {model.key: model for model in LABELLED}
    names = ("FP32", "ours", *BASELINES)
    lines = []
    for key in chosen(options.models, tuple(models)):
        judge = Judge(models[key], options.assets)
        for name in names:
            cells = []
            for bits in options.bits:
                print(f"{key}, W{bits}A8, {name} ...", file=sys.stderr, flush=True)
                cells.append(cell(gather(judge, bits, name, rows, options), name))
            lines.append([key if name == "FP32" else "", name, *cells])
    header = ["model", "method", *(f"W{bits}A8" for bits in options.bits)]
    body = (
        "Top-1 in percent, in brackets the agreement with FP32. Ours: no data, "
        f"{options_given(options.compile_args)}, seed 0, time from process start and peak memory.\n"
        "Best of onnxruntime: uint8 activations, per-channel weights, after quant_pre_process, the calibration method "
        "(named) with the highest top-1 on these very images.\n"
        "Real data: 256 CIFAR-10 or MNIST images, 64 ImageNet images. Random data: as many, uniform in [0, 1).\n\n"
        + table(header, lines)
    )
    write_result("accuracy", "Accuracy", body)


if __name__ == "__main__":
    main()
