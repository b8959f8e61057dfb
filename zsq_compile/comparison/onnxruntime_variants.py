"""Files of onnxruntime's quantizer for a comparison: default and best settings, by every calibration method."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from zsq_compile.comparison.calibration_sources import CalibrationSource
from zsq_compile.comparison.measure import first_line
from zsq_compile.comparison.onnxruntime_quantizer import (
    METHODS,
    BaselineSettings,
    prepare_for_onnxruntime,
    quantize_with_onnxruntime,
)
from zsq_compile.comparison.result import ComparedModel
from zsq_compile.config.compile import CompileConfig
from zsq_compile.progress import Progress


def onnxruntime_rows(
    model: Path,
    place: Path,
    sources: Sequence[CalibrationSource],
    synthesis_seconds: float,
    config: CompileConfig,
    progress: Progress,
) -> list[ComparedModel]:
    """Quantize with onnxruntime, by every setting and method on every source.

    The graph is prepared once, and each method calibrates once on each source, for the graph as given and for the
    prepared one. Times are as if each file were made alone: shared work is counted in all.
    """
    rows = []
    bits, act_bits = (onnxruntime_bits(wanted) for wanted in (config.quantization.bits, config.quantization.act_bits))
    with (
        tempfile.TemporaryDirectory(prefix="zsq_") as scratch,
        progress.stage("quantize with onnxruntime", total=len(sources) * 2 * len(METHODS)) as advance,
    ):
        prepared, preparing = _prepared(model, Path(scratch) / "prepared.onnx")
        for source in sources:
            calibrating = dict.fromkeys(METHODS, 0.0)
            for tuned in (False, True):
                for method in METHODS:
                    settings = BaselineSettings(weight_bits=bits, act_bits=act_bits, method=method, tuned=tuned)
                    ranges = Path(scratch) / f"{source.kind}-{method}.json"
                    row = _onnxruntime_row(model, place, source, settings, prepared, ranges)
                    if row.seconds is not None:
                        calibrating[method] = max(calibrating[method], row.seconds)
                        own = calibrating[method] + preparing * tuned
                        extra = synthesis_seconds * (source.kind == "synthetic")
                        row = replace(row, seconds=own + extra)
                    rows.append(row)
                    advance(1)
    return rows


def _prepared(model: Path, prepared: Path) -> tuple[Path | None, float]:
    """Prepare the graph; where that fails, each row that needs it tries again and has the reason."""
    begun = time.perf_counter()
    try:
        prepare_for_onnxruntime(model, prepared)
    except ValueError:
        return None, 0.0
    return prepared, time.perf_counter() - begun


def _onnxruntime_row(
    model: Path,
    place: Path,
    source: CalibrationSource,
    settings: BaselineSettings,
    prepared: Path | None,
    ranges: Path,
) -> ComparedModel:
    kind = "best" if settings.tuned else "defaults"
    path = place / f"{model.stem}.onnxruntime-{kind}-{settings.method.lower()}-{source.kind}.onnx"
    row = ComparedModel(kind="onnxruntime", name=f"{kind}, {settings.method}", calibrated_on=source.kind)
    begun = time.perf_counter()
    try:
        quantize_with_onnxruntime(model, path, source.batches, settings, prepared=prepared, ranges=ranges)
    except MemoryError:
        return replace(row, failure="memory ran out: take fewer samples")
    except ValueError as error:
        return replace(row, failure=first_line(error.__cause__ or error))
    return replace(row, path=path, seconds=time.perf_counter() - begun)


def onnxruntime_bits(bits: int) -> Literal[4, 8]:
    """Smallest number of bits that onnxruntime's quantizer has, of at least ``bits``."""
    return 8 if bits > 4 else 4
