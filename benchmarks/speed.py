"""Compile time by stage, peak memory, and latency of FP32, onnxruntime's best QDQ file and ours, taken in turns."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from harness import Setting, compiled, last_words, open_rows, options_given, table, write_result
from learning import block_lines
from zoo import LABELLED, TIMED, Labelled, add_common_options, chosen

from zsq_compile.comparison.onnxruntime_quantizer import BaselineSettings, quantize_with_onnxruntime
from zsq_compile.files import file_bytes
from zsq_compile.verification.fusion import inspect_fusion
from zsq_compile.verification.latency import measure_latency

DEFAULT = ["resnet8_cifar10_bn", "resnet20_bn", "resnet56_bn", "mobilenetv1_075_bn"]
DEFAULT += [model.key for model in TIMED]


THREADS = [1, 2]


def onnxruntime_file(model: Labelled, options: argparse.Namespace) -> Path:
    """Write onnxruntime's fastest form: uint8 activations, int8 per-channel weights."""
    path: Path = options.work / "onnxruntime" / f"{model.key}.u8s8.onnx"
    if not path.is_file() or options.fresh:
        path.parent.mkdir(parents=True, exist_ok=True)
        batches = model.calibration_batches(options.assets)
        quantize_with_onnxruntime(model.path(options.assets), path, batches, BaselineSettings())
    return path


def compile_line(model: Labelled, bits: int, row: dict[str, Any]) -> list[str]:
    stages = row["report"].get("stages", {})
    words = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items())
    if row["exit_code"] not in (0, 4):
        words = last_words(row)
    return [model.key, f"W{bits}A8", f"{row['seconds']:.1f}", f"{row['peak_mb']:.0f}", words]


def latency_lines(
    model: Labelled, files: dict[str, Path], batch: int, threads: int, options: argparse.Namespace
) -> list[list[str]]:
    spec = model.spec(options.assets)
    feeds = {spec.name: np.random.default_rng(0).random(spec.batched(batch), np.float32)}
    times = measure_latency(files, feeds, threads=threads, seconds=options.seconds)
    lines = []
    for name, path in files.items():
        fusion = inspect_fusion(path)
        own, float32, rival = times[name], times["FP32"], times["ORT U8S8"]
        lines.append(
            [
                model.key if name == "FP32" else "",
                f"{batch}, {threads}" if name == "FP32" else "",
                name,
                f"{own.median_ms:.3f} ({own.p10_ms:.3f} to {own.p90_ms:.3f})",
                f"{float32.median_ms / own.median_ms:.2f} ({float32.p10_ms / own.p10_ms:.2f})",
                f"{own.median_ms / rival.median_ms:.2f} ({own.p10_ms / rival.p10_ms:.2f})",
                f"{fusion.fused} of {fusion.layers}",
                f"{fusion.quantize_nodes + fusion.dequantize_nodes}",
                f"{file_bytes(path) / 1e3:.1f}",
                f"{file_bytes(path) / file_bytes(files['FP32']):.3f}",
            ]
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", default=DEFAULT, help="models, or the beginnings of their names")
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 4], help="weight bits")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8], help="samples of a run, where they are open")
    parser.add_argument("--seconds", type=float, default=8.0, help="time for the latencies of a model at one batch")
    options = parser.parse_args()
    rows = open_rows(options)
    models = {model.key: model for model in (*LABELLED, *TIMED)}
    compiling, latencies, learning = [], [], []
    for key in chosen(options.models, tuple(models)):
        model = models[key]
        files = {"FP32": model.path(options.assets), "ORT U8S8": onnxruntime_file(model, options)}
        for bits in options.bits:
            print(f"{key}, W{bits}A8 ...", file=sys.stderr, flush=True)
            row = compiled(files["FP32"], Setting(bits=bits), rows, options)
            if row is not None:
                compiling.append(compile_line(model, bits, row))
                if row["exit_code"] in (0, 4):
                    files[f"ours INT{bits}"] = Path(row["path"])
                if row["report"].get("learning"):
                    learning += block_lines(f"{key}, W{bits}A8", files["FP32"], row["report"])
        fixed = model.spec(options.assets).shape[0]
        for batch in options.batches if fixed is None else [fixed]:
            for threads in [options.threads] if options.threads else THREADS:
                print(f"{key}, {batch} samples, {threads} threads ...", file=sys.stderr, flush=True)
                latencies += latency_lines(model, files, batch, threads, options)
    columns = [
        "model",
        "batch, threads",
        "file",
        "median ms (10 % to 90 %)",
        "times as fast as FP32",
        "of ORT's time",
        "layers in integers",
    ]
    body = (
        "## Latency\n\nAll files of a model in turns; the first run of each turn is not counted. Ratios of "
        "the medians, in brackets those of the fastest tenth, which a busy machine disturbs less.\n\n"
        + table([*columns, "Q/DQ nodes left", "kB", "of FP32's size"], latencies)
        + f"\n\n## Compile time\n\nWith {options_given(options.compile_args)}, seed 0, each in a process of its own, "
        "from its start to its end.\n\n"
        + table(["model", "bits", "seconds", "peak MB", "seconds by stage"], compiling)
        + "\n\n## Learning\n\nImages per second through forward and backward pass while a block is learned, optimiser "
        "and sampling included, beside those of a plain pass through the float block in the same precision.\n\n"
        + table(["model", "block", "steps", "seconds", "learning", "float block", "ratio"], learning)
    )
    write_result("speed", "Speed", body)


if __name__ == "__main__":
    main()
