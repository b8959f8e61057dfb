"""Accuracy without data at 8 bits and fewer, over several seeds, beside the goals and beside real calibration data."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import Rows, Setting, open_rows, options_given, table, write_result
from judge import Judge, float_row, our_row
from zoo import LABELLED, add_common_options, chosen

from zsq_compile.files import write_arrays

SETTINGS = ("W8A8", "W4A8", "W4A4", "W3A3", "W2A4")

# Top-1 and agreement with FP32 in percent, None where none was set: what the mean over the seeds is to reach.
GOALS: dict[str, dict[str, tuple[float, float | None]]] = {
    "resnet20_bn": {
        "W8A8": (91.3, 99),
        "W4A8": (91.2, 97.8),
        "W4A4": (90.7, 96),
        "W3A3": (89.5, 93.5),
        "W2A4": (89, 93),
    },
    "resnet56_bn": {
        "W8A8": (92.4, 99),
        "W4A8": (92.3, 98),
        "W4A4": (91.8, 96.5),
        "W3A3": (90.5, 94),
        "W2A4": (90, 93),
    },
    "resnet8_cifar10_bn": {
        "W8A8": (88, 98.5),
        "W4A8": (87.5, 96),
        "W4A4": (86.5, 94),
        "W3A3": (84, None),
        "W2A4": (84, None),
    },
    "mobilenetv1_075_bn": {"W8A8": (79.25, 98), "W4A8": (76.5, 91), "W4A4": (72, None)},
}


def widths(name: str) -> tuple[int, int]:
    """Read the bits of weights and of activations off a name such as W4A8."""
    found = re.fullmatch(r"W(\d+)A(\d+)", name.upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"a setting is written W4A8, got {name}")
    return int(found[1]), int(found[2])


def setting_name(text: str) -> str:
    widths(text)
    return text.upper()


def real_data(judge: Judge, options: argparse.Namespace) -> Path:
    """Write real images in the network's own numbers, once: a quarter more than are used, which is held out."""
    count = judge.model.calibration_count * 5 // 4
    path: Path = options.work / "calibration" / f"{judge.model.key}.{count}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        batches = replace(judge.model, calibration_count=count).calibration_batches(options.assets)
        write_arrays(path, {name: np.concatenate([feeds[name] for feeds in batches]) for name in batches[0]})
    return path


def percent(top: float, agreement: float | None) -> str:
    return f"{100 * top:.2f}" + ("" if agreement is None else f" ({100 * agreement:.2f})")


def goal(model: str, name: str) -> tuple[float, float | None] | None:
    """Return the goal as shares, or None."""
    found = GOALS.get(model, {}).get(name)
    return None if found is None else (found[0] / 100, None if found[1] is None else found[1] / 100)


def verdict(wanted: tuple[float, float | None] | None, good: Sequence[dict[str, Any]]) -> str:
    """Say how far the means are above the goal."""
    if wanted is None or not good:
        return "-"
    above = [float(np.mean([row["top1"] for row in good])) - wanted[0]]
    if wanted[1] is not None:
        above.append(float(np.mean([row["agreement"] for row in good])) - wanted[1])
    words = f"{100 * above[0]:+.2f}" + (f" ({100 * above[1]:+.2f})" if len(above) > 1 else "")
    return f"{'met' if min(above) > -5e-5 else 'missed'} {words}"  # half of the last digit that is shown


def line(model: str, name: str, done: Sequence[dict[str, Any] | None], real: dict[str, Any] | None) -> list[str]:
    """Lay out one row of the table from the rows of all seeds, None where one was not run."""
    rows = [row for row in done if row is not None]
    good = [row for row in rows if "top1" in row]
    wanted = goal(model, name)
    mean = worst = "-"
    if good:
        scores = {key: [row[key] for row in good] for key in ("top1", "agreement")}
        mean = percent(float(np.mean(scores["top1"])), float(np.mean(scores["agreement"])))
        worst = percent(min(scores["top1"]), min(scores["agreement"]))
    if len(good) < len(done):
        mean += f", {len(good)} of {len(done)} seeds"
    failed = sorted({row["error"] for row in rows if "top1" not in row})
    if failed:
        worst += f", failed: {'; '.join(failed)}"
    told = "-" if real is None else real.get("error", "")
    return [
        model,
        name,
        "-" if wanted is None else percent(*wanted),
        mean,
        worst,
        verdict(wanted, good),
        percent(real["top1"], real["agreement"]) if real is not None and "top1" in real else told,
        f"{np.mean([row['seconds'] for row in rows]):.0f}" if rows else "-",
        f"{max(row['peak_mb'] for row in rows) / 1024:.1f}" if rows else "-",
    ]


def gather(judge: Judge, name: str, rows: Rows, options: argparse.Namespace) -> list[str]:
    """Run what was not run before, unless only finished rows are wanted, and lay out the row of one setting."""
    bits, act_bits = widths(name)
    done = []
    for seed in options.seeds:
        print(f"{judge.model.key}, {name}, seed {seed} ...", file=sys.stderr, flush=True)
        setting = Setting(bits=bits, act_bits=act_bits, seed=seed)
        done.append(our_row(judge, setting, rows, options, make=not options.finished))
    real = None
    if options.real:
        print(f"{judge.model.key}, {name}, real data ...", file=sys.stderr, flush=True)
        setting = Setting(bits=bits, act_bits=act_bits, seed=options.seeds[0], calib=real_data(judge, options))
        real = our_row(judge, setting, rows, options, make=not options.finished)
    return line(judge.model.key, name, done, real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", default=list(GOALS), help="models, or the beginnings of their names")
    parser.add_argument("--settings", nargs="*", type=setting_name, default=list(SETTINGS), help="such as W4A8")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--real", action=argparse.BooleanOptionalAction, default=True, help="one more run with real calibration data"
    )
    parser.add_argument("--finished", action="store_true", help="run nothing: show the rows that are there")
    options = parser.parse_args()
    rows = open_rows(options)
    models = {model.key: model for model in LABELLED}
    lines, floats = [], []
    for key in chosen(options.models, tuple(models)):
        judge = Judge(models[key], options.assets)
        floats.append(f"{key} {100 * float_row(judge, rows)['top1']:.2f}")
        lines += [gather(judge, name, rows, options) for name in options.settings]
    header = ["model", "setting", "goal", "mean", "worst", "against the goal", "real data", "seconds", "GB"]
    body = (
        f"Top-1 in percent, in brackets the agreement with FP32. No data, {options_given(options.compile_args)}, seeds "
        f"{', '.join(map(str, options.seeds))}: mean and worst over them, seconds of one from process start (mean), "
        f"largest peak memory.\nReal data: the same compiler calibrated on as many real images, seed "
        f"{options.seeds[0]}. FP32: {', '.join(floats)}.\n\n" + table(header, lines)
    )
    write_result("lowbit", "Few bits", body)


if __name__ == "__main__":
    main()
