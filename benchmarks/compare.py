"""zsq-compile compare as a user calls it: the table that it prints, and the time from the process's start to end."""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from harness import table, write_result
from zoo import LABELLED, ROOT, Labelled, add_common_options, chosen

GOAL_SECONDS = 300.0  # for mobilenetv1_075_bn with --data on two processors that do nothing else


def words(model: Labelled, options: argparse.Namespace) -> list[str]:
    """Say the comparison to the command line, as a user would with these files at hand."""
    assets: Path = options.assets
    said = ["compare", str(model.path(assets)), "--data", str(assets / model.images)]
    if model.calibration is not None and not options.data_only:
        said += ["--calib-data", str(assets / model.calibration)]
    return [*said, *shlex.split(options.compile_args)]


def compared(said: list[str], log: Path) -> tuple[str, list[str]]:
    """Run one comparison: what it printed, and a row of how long it took."""
    load = os.getloadavg()[0]
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
        process = subprocess.Popen([sys.executable, "-m", "zsq_compile", *said], stdout=out, stderr=err, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this child alone
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    used = usage.ru_utime + usage.ru_stime
    row = [f"{seconds:.0f}", f"{used:.0f}", f"{load:.1f} to {os.getloadavg()[0]:.1f}", f"{usage.ru_maxrss / 1024:.0f}"]
    return log.with_suffix(".out").read_text(), [*row, str(process.returncode)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", default=["mobilenetv1_075_bn"], help="models, or beginnings of names")
    parser.add_argument("--data-only", action="store_true", help="calibrate nothing on real data")
    options = parser.parse_args()
    models = {model.key: model for model in LABELLED}
    rows, parts = [], []
    for key in chosen(options.models, tuple(models)):
        print(f"{key} ...", file=sys.stderr, flush=True)
        said = words(models[key], options)
        text, row = compared(said, options.work / "compare" / key)
        rows.append([key, *row])
        shown = shlex.join(word.replace(str(options.assets), "ASSETS") for word in said)
        tidy = "\n".join(line.rstrip() for line in text.replace(str(options.assets), "ASSETS").splitlines())
        parts.append(f"## {key}\n\n`zsq-compile {shown}`\n\n```\n{tidy}\n```")
    header = ["model", "seconds", "processor seconds", "load of the machine", "peak MB", "exit code"]
    body = (
        f"Goal: the whole table of mobilenetv1_075_bn in less than {GOAL_SECONDS:.0f} s on two processors. From the "
        "process's start to its end; the load is the average number of\nprocesses that wanted a processor (1 minute, "
        "before and behind): above 2 the seconds are those of a busy machine, and latencies are too.\n\n"
    )
    write_result("compare", "Comparison", body + table(header, rows) + "\n\n" + "\n\n".join(parts))


if __name__ == "__main__":
    main()
