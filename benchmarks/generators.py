"""Which generator's data is worth most: the same compilation on data of each, of real images, and the time it takes."""

import argparse
import sys
from typing import Any

from harness import Rows, Setting, compiled, open_rows, table, write_result
from judge import Judge, float_row, our_row
from lowbit import percent, real_data, setting_name, widths
from zoo import LABELLED, add_common_options, chosen

from zsq_compile.config.compile import GENERATORS

REAL = "real images"


def setting_of(name: str, generator: str, judge: Judge, options: argparse.Namespace) -> Setting:
    """Return what is compiled with the data of one generator."""
    bits, act_bits = widths(name)
    if generator == REAL:
        return Setting(bits=bits, act_bits=act_bits, seed=options.seed, calib=real_data(judge, options))
    return Setting(bits=bits, act_bits=act_bits, seed=options.seed, generator=generator)


def cell(judge: Judge, setting: Setting, rows: Rows, options: argparse.Namespace) -> tuple[str, float | None]:
    """Return scores, or the error, and the seconds of the synthesis alone."""
    make = not options.finished
    row = our_row(judge, setting, rows, options, make=make)
    if row is None:
        return "-", None
    if "top1" not in row:
        return f"failed: {row['error']}", None
    done: dict[str, Any] | None = compiled(judge.path, setting, rows, options, make=make)
    seconds = None if done is None else done["report"].get("stages", {}).get("synthesize")
    return percent(row["top1"], row["agreement"]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", default=["resnet20_bn"], help="models, or the beginnings of their names")
    parser.add_argument("--settings", nargs="*", type=setting_name, default=["W8A8", "W4A8", "W4A4", "W3A3"])
    parser.add_argument("--generators", nargs="*", default=[*GENERATORS, REAL], help=f"names, or {REAL!r}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finished", action="store_true", help="run nothing: show the rows that are there")
    options = parser.parse_args()
    rows = open_rows(options)
    models = {model.key: model for model in LABELLED}
    lines, floats = [], []
    for key in chosen(options.models, tuple(models)):
        judge = Judge(models[key], options.assets)
        floats.append(f"{key} {100 * float_row(judge, rows)['top1']:.2f}")
        for generator in options.generators:
            cells, seconds = [], []
            for name in options.settings:
                print(f"{key}, {name}, {generator} ...", file=sys.stderr, flush=True)
                text, spent = cell(judge, setting_of(name, generator, judge, options), rows, options)
                cells.append(text)
                seconds += [] if spent is None or generator == REAL else [spent]
            lines.append([key, generator, *cells, f"{max(seconds):.0f}" if seconds else "-"])
    header = ["model", "data", *options.settings, "seconds of synthesis"]
    body = (
        f"Top-1 in percent, in brackets the agreement with FP32, seed {options.seed}; all else by default, so that "
        f"every generator makes as many samples. FP32: {', '.join(floats)}.\n\n" + table(header, lines)
    )
    write_result("generators", "Generators", body)


if __name__ == "__main__":
    main()
