"""Detectors without data beside onnxruntime's quantizer with real data: boxes that stay, and speed.

Real inputs are photographs that the detector finds something on, or for the detectors of ``train_detectors.py`` drawn
scenes that no training has seen. A network of landmarks is judged beside them, by the numbers that stay.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from answering import load_judge
from harness import number, open_rows, table, write_result
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from real_inputs import Feeds, Subject, subjects
from task_workshop import Workshop, quality_on
from zoo import add_common_options, chosen

from zsq_compile.tasks.task import TaskQuality
from zsq_compile.verification.latency import measure_latency

_LANDMARKS = "pfld_landmark"
_BY_CHANNEL_FROM = 13  # opset whose DequantizeLinear has an axis
_SECONDS = 3.0  # of timing, for all files of a network together


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives feeds one after the other."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        """Return the next feed, None after the last one."""
        return next(self._feeds, None)


def quantize_real(model: Path, feeds: Sequence[Feeds], output: Path) -> None:
    """Quantize as onnxruntime documents it for x86 without VNNI: 7 bits of weights, by channel if the opset can."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        opset = next(one.version for one in onnx.load(model).opset_import if one.domain in ("", "ai.onnx"))
        quantize_static(
            prepared,
            output,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=opset >= _BY_CHANNEL_FROM,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _rival(subject: Subject, calibration: Sequence[Feeds], folder: Path, *, fresh: bool) -> Path | None:
    output = folder / f"{subject.key}.onnxruntime.onnx"
    if fresh or not output.is_file():
        try:
            quantize_real(subject.path, calibration, output)
        except Exception as error:  # whatever another tool raises is its row
            print(f"{subject.key}: onnxruntime: {error}", file=sys.stderr)
            return None
    return output


def _judged(subject: Subject, path: Path, options: argparse.Namespace) -> str:
    """Boxes that ``judge.py``, which decodes by itself, finds again."""
    if not subject.has_judge:
        return ""
    folder = options.assets / "models" / "wild2"
    judge = load_judge(folder)
    feeds = judge.feeds(subject.key, "eval", folder)
    floats, other = (judge.outputs(one, feeds) for one in (subject.path, path))
    named = [dict(zip(wanted, got.values(), strict=True)) for wanted, got in zip(floats, other, strict=True)]
    words: str = judge.JUDGES[subject.key][1](floats, named)[1]
    return words.partition(" ")[0]


def line(key: str, file: str, quality: TaskQuality, speed: float | None, judged: str) -> list[str]:
    """Return a row of the table."""
    details: Any = quality.details
    return [
        key,
        file,
        str(quality.count),
        number(None if quality.kept is None else 100 * details.get("found again", quality.kept), "{:.1f}"),
        number(_percent(details.get("IoU above 0.5")), "{:.1f}"),
        number(_percent(details.get("extra boxes")), "{:.1f}"),
        number(details.get("score error"), "{:.3f}"),
        judged,
        number(speed, "{:.2f}"),
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def lines_of(subject: Subject, shop: Workshop, options: argparse.Namespace) -> list[list[str]]:
    """Rows of one network."""
    made = shop.compiled(subject)
    if made is None:
        return []
    calibration, feeds = subject.real()
    rival = _rival(subject, calibration, options.work / "tasks", fresh=options.fresh)
    files = {"ours, no data": made.path} | ({} if rival is None else {"onnxruntime, real data": rival})
    times = measure_latency({"float": subject.path, **files}, feeds[0], threads=1, seconds=_SECONDS)
    lines = []
    for name, path in files.items():
        quality = quality_on(made.task, subject.path, path, feeds)
        speed = times["float"].median_ms / times[name].median_ms
        lines.append(line(subject.key, name, quality, speed, _judged(subject, path, options)))
        print(f"  {' | '.join(lines[-1])}", file=sys.stderr, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser)
    parser.add_argument("--models", nargs="*", help="networks, or the beginnings of their names (default: all)")
    parser.add_argument("--effort", default="fast", choices=("fast", "balanced", "best"))
    parser.add_argument("--older", action="store_true", help="take files that an older source has made, if it must be")
    parser.add_argument("--finished", dest="making", action="store_false", help="compile nothing, take what there is")
    options = parser.parse_args()
    open_rows(options)  # ends here where the assets are not there
    torch.set_num_threads(options.threads or 1)
    shop = Workshop(
        options.work / "tasks", effort=options.effort, fresh=options.fresh, older=options.older, making=options.making
    )
    known = {one.key: one for one in subjects(options.assets, options.work) if one.is_detector or one.key == _LANDMARKS}
    lines = []
    for key in chosen(options.models, tuple(known)):
        print(f"{key} ...", file=sys.stderr, flush=True)
        lines += lines_of(known[key], shop, options)
    header = ["network", "file", "boxes of the float network", "IoU > 0.9, %", "IoU > 0.5, %", "extra, %"]
    header += ["score error", "by judge.py", "speed"]
    body = (
        f"W8A8, `--effort {options.effort}`, no data and no other option; onnxruntime with per-channel weights of a "
        "reduced range, as its documentation says for processors without VNNI, and 32 real inputs. Extra boxes are in "
        "percent of the float network's. Speed is the float file's time over the quantized one's, one thread, in turns."
        "\nOf pfld_landmark the numbers within a tenth of their spread are counted.\n\n" + table(header, lines)
    )
    write_result("detectors", "Detectors", body)


if __name__ == "__main__":
    main()
