"""Other quantizers, each in its own environment, calibrated on real data, on ours and on random data."""

import argparse
import functools
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Rows, open_rows, runtime_key, source_key, table, write_result
from judge import Judge, float_row
from zoo import LABELLED, ROOT, Labelled, add_common_options, chosen

from zsq_compile.files import file_sha256, read_arrays, write_arrays

SCRIPTS = Path(__file__).resolve().parent / "rivals"
MODELS = ("resnet20", "mobilenetv1_075")
GOAL = 0.5  # points of top-1 between our data and real data


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A quantizer: the end of its script's name, what is installed of it, and the settings that the script knows."""

    key: str
    title: str
    distributions: tuple[str, ...]
    settings: tuple[str, ...]


RIVALS = (
    Rival(
        key="onnxruntime",
        title="onnxruntime",
        distributions=("onnxruntime",),
        settings=("defaults", "minmax", "entropy", "minmax, float outputs"),
    ),
    Rival(key="nncf", title="OpenVINO NNCF", distributions=("nncf", "openvino"), settings=("defaults", "best")),
    Rival(
        key="aimet",
        title="AIMET-ONNX",
        distributions=("aimet-onnx",),
        settings=("min_max", "tf_enhanced", "tf_enhanced, float outputs"),
    ),
    Rival(key="modelopt", title="NVIDIA ModelOpt", distributions=("nvidia-modelopt",), settings=("defaults", "max")),
    Rival(
        key="quark",
        title="AMD Quark",
        distributions=("amd-quark",),
        settings=("preset A8W8", "best", "best, float outputs"),
    ),
)
SHARED = ("onnx", "onnxruntime", "numpy", "torch")  # whose versions count in every environment


class Data:
    """The calibration files of one model: one .npz for each kind of data, all with the same number of samples."""

    def __init__(self, key: str, options: argparse.Namespace) -> None:
        known = {model.key: model for model in LABELLED}
        self.model: Labelled = known[f"{key}_folded"]
        self._normalised = known[f"{key}_bn"]
        self._options = options
        self._folder = options.work / "rivals" / "data"
        self._folder.mkdir(parents=True, exist_ok=True)

    def path(self, kind: str, *, make: bool) -> Path | None:
        """Return the file of one kind of data, made now if it must be; None when it is not there and may not be."""
        makers: dict[str, Callable[[], dict[str, np.ndarray]]] = {
            "real": lambda: _joined(self.model.calibration_batches(self._options.assets)),
            "ours": lambda: self._synthetic(self._normalised),
            "ours, folded": lambda: self._synthetic(self.model),
            "random": lambda: _joined(self.model.random_batches(self._options.assets)),
        }
        source = f".{source_key()[:12]}" if kind.startswith("ours") else ""
        place = self._folder / f"{self.model.key}.{kind.replace(', ', '-')}{source}.npz"
        if make and not place.is_file():
            write_arrays(place, makers[kind]())
        return place if place.is_file() else None

    def _synthetic(self, model: Labelled) -> dict[str, np.ndarray]:
        """Call ``zsq-compile synth`` as a user does; the first samples of it, as many as there are real ones."""
        made = self._folder / f"{model.key}.synth.{source_key()[:12]}.npz"
        if not made.is_file():
            command = [sys.executable, "-m", "zsq_compile", "synth", str(model.path(self._options.assets))]
            subprocess.run([*command, "-o", str(made), "-q"], check=True, cwd=ROOT)
        return {name: array[: model.calibration_count] for name, array in read_arrays(made).items()}


def _joined(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([feeds[name] for feeds in batches]) for name in batches[0]}


KINDS = ("real", "ours", "ours, folded", "random")


@functools.cache
def versions(rival: Rival, python: Path) -> str:
    """Ask an environment for the versions of what counts in it."""
    names = (*rival.distributions, *SHARED)
    code = (
        "import importlib.metadata as m, sys\n"
        "there = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(', '.join(f'{n} {there[n]}' for n in sys.argv[1:] if n in there))"
    )
    done = subprocess.run([str(python), "-c", code, *dict.fromkeys(names)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def quantized(judge: Judge, command: list[str], folder: Path, timeout: float) -> dict[str, Any]:
    """Run a rival's script and judge its file; a row with ``error`` where there is none."""
    output = Path(command[-2])
    output.unlink(missing_ok=True)
    log = output.with_suffix(".log")
    start = time.perf_counter()
    with log.open("w") as words:
        try:
            # In a folder of its own, because some leave files behind in the working folder.
            code = subprocess.run(
                command, stdout=words, stderr=subprocess.STDOUT, cwd=folder, timeout=timeout, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {timeout:.0f} s", "exit_code": -1}
    if code != 0 or not output.is_file():
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        return {"error": f"exit code {code}: {' '.join(last)[:200]}"} | ({"exit_code": code} if code < 0 else {})
    return {"seconds": time.perf_counter() - start, "kb": output.stat().st_size / 1000} | judge.scores(output)


def gather(
    judge: Judge, rival: Rival, setting: str, data: Path, rows: Rows, options: argparse.Namespace
) -> dict[str, Any] | None:
    """Return one cell of the table: from the finished rows, or made now unless nothing is to be run."""
    python = options.environments[rival.key]
    script = SCRIPTS / f"with_{rival.key}.py"
    folder = options.work / "rivals" / rival.key
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"{data.stem}.{setting.replace(', ', '-').replace(' ', '_')}.onnx"
    command = [str(python), str(script), str(judge.path), str(data), str(output), setting]
    files = [file_sha256(path) for path in (judge.path, data, script)]
    key = ["rival", rival.key, setting, *files, versions(rival, python), runtime_key()]
    return rows.get(key, None if options.finished else lambda: quantized(judge, command, folder, options.timeout))


def cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if "top1" not in row:
        return f"failed: {row['error']}"
    return f"{100 * row['top1']:.2f} ({100 * row['agreement']:.2f})"


def gap_of(found: dict[str, dict[str, Any] | None]) -> tuple[float, float] | None:
    """How far our data is from real data, in points of top-1 and of the agreement; None where one is missing."""
    pair = [row for kind in ("real", "ours") if (row := found.get(kind)) and "top1" in row]
    if len(pair) < 2:
        return None
    top1, kept = (100 * (pair[1][what] - pair[0][what]) for what in ("top1", "agreement"))
    return round(top1, 6), round(kept, 6)  # differences of shares are not exact


def lines_of(key: str, rows: Rows, options: argparse.Namespace) -> tuple[list[list[str]], list[tuple[float, float]]]:
    """Return the table's lines of one model, and how far our data is from real data in each (see ``gap_of``)."""
    data = Data(key, options)
    judge = Judge(data.model, options.assets)
    paths = {kind: data.path(kind, make=not options.finished) for kind in options.data}
    lines = [[data.model.key, f"FP32: {100 * float_row(judge, rows)['top1']:.2f}", *[""] * len(options.data), ""]]
    gaps = []
    for rival in options.rivals:
        for setting in [name for name in rival.settings if name in options.settings]:
            found = {}
            for kind, path in paths.items():
                print(f"{data.model.key}, {rival.key} {setting}, {kind} ...", file=sys.stderr, flush=True)
                found[kind] = None if path is None else gather(judge, rival, setting, path, rows, options)
            if not any(found.values()):
                continue
            gap = gap_of(found)
            gaps += [] if gap is None else [gap]
            cells = [cell(found[kind]) for kind in options.data]
            shown = "-" if gap is None else f"{gap[0]:+.2f} ({gap[1]:+.2f})"
            lines.append(["", f"{rival.title}, {setting}", *cells, shown])
    return lines, gaps


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help=f"of {', '.join(MODELS)}, or the beginnings of their names")
    parser.add_argument("--data", nargs="*", choices=KINDS, default=list(KINDS), help="kinds of calibration data")
    known = sorted({setting for rival in RIVALS for setting in rival.settings})
    parser.add_argument("--settings", nargs="*", choices=known, default=known, help="settings of the rivals")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="RIVAL=PATH",
        help="the interpreter of a rival's environment, whose rows are made and shown: "
        + ", ".join(rival.key for rival in RIVALS[1:]),
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which a rival is stopped")
    parser.add_argument("--finished", action="store_true", help="run nothing; show the rows that are there")
    options = parser.parse_args()
    named = dict(entry.partition("=")[::2] for entry in options.python)
    if unknown := set(named) - {rival.key for rival in RIVALS}:
        parser.error(f"--python wants {', '.join(rival.key for rival in RIVALS)} before the =, got {unknown.pop()}")
    # No resolving of links: a virtual environment's python is a link to the one that it was made with.
    options.environments = {"onnxruntime": Path(sys.executable)} | {key: Path(path) for key, path in named.items()}
    options.rivals = tuple(rival for rival in RIVALS if rival.key in options.environments)
    return options


def main() -> None:
    options = parse()
    rows = open_rows(options)
    options.work = options.work.absolute()
    lines, gaps = [], []
    for key in chosen(options.models, MODELS):
        more, apart = lines_of(key, rows, options)
        lines += more
        gaps += apart
    header = ["model", "quantizer", *options.data, "ours - real"]
    near, kept = (sum(gap[place] >= -GOAL for gap in gaps) for place in (0, 1))
    environments = "\n".join(
        f"- {rival.title}: {versions(rival, options.environments[rival.key])}" for rival in options.rivals
    )
    body = INTRODUCTION + table(header, lines)
    body += f"\n\nWith our data at most {GOAL} points below real data: {near} of {len(gaps)} in top-1, "
    body += f"{kept} of {len(gaps)} in agreement.\n\nEnvironments:\n\n"
    write_result("rivals", "Our calibration data in other quantizers", body + environments)


INTRODUCTION = """W8A8. Top-1 in percent, in brackets the agreement with FP32, in ONNX Runtime on the same images. All
quantize the same file, with batch normalisation folded away, as exporters do it; `benchmarks/rivals/` has the settings.

- real: 256 CIFAR-10 or 64 ImageNet images. The other kinds have as many samples.
- ours: `zsq-compile synth` of the model with batch normalisation, default options.
- ours, folded: `zsq-compile synth` of the very file that is quantized, so no statistics.
- random: uniform in [0, 1), what ModelOpt takes by itself.

Float outputs: the logits have no quantizer. Where they have one, its range comes from the calibration data, and the
logits of real images may reach beyond those of synthetic ones. "ours - real": points of top-1, in brackets of
agreement. On 400 images of which a file changes a tenth of the decisions, the standard error of a difference in top-1
is 1.6 points, on 1000 images with one decision in a hundred 0.3; one image is 0.25 and 0.1.

"""


if __name__ == "__main__":
    main()
