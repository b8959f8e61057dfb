"""Calls of onnxruntime.quantization, all in this file."""

import inspect
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from numpy.typing import NDArray

Method = Literal["MinMax", "Entropy", "Percentile"]
Feeds = Mapping[str, NDArray[Any]]

METHODS: tuple[Method, ...] = ("MinMax", "Entropy", "Percentile")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineSettings:
    """How onnxruntime is called.

    Attributes:
        weight_bits: 8 (QInt8) or 4 (QInt4).
        act_bits: 8 (QUInt8; QInt8 unless tuned) or 4 (QUInt4; QInt4 unless tuned).
        method: calibration method.
        tuned: with the graph prepared by quant_pre_process, unsigned activations and scales per channel, which is the
            fastest and most accurate form on a processor. False leaves everything but bits and method at the
            quantizer's defaults.

    """

    weight_bits: Literal[4, 8] = 8
    act_bits: Literal[4, 8] = 8
    method: Method = "MinMax"
    tuned: bool = True

    def __str__(self) -> str:
        """Name the settings in a table."""
        if not self.tuned:
            return f"defaults, S{self.act_bits}S{self.weight_bits}, {self.method}"
        return f"U{self.act_bits}S{self.weight_bits} per channel, {self.method}"


def quantize_with_onnxruntime(
    model: Path,
    output: Path,
    batches: Iterable[Feeds],
    settings: BaselineSettings,
    *,
    prepared: Path | None = None,
    ranges: Path | None = None,
) -> None:
    """Quantize with onnxruntime.quantization.quantize_static and write the result.

    Args:
        model: float model.
        output: file to write.
        batches: calibration inputs by name, one mapping for each batch; all of one batch size.
        settings: types, method and form.
        prepared: the file of ``prepare_for_onnxruntime``, for tuned settings; None prepares the model here.
        ranges: file for the activation ranges of this calibration method on these batches. It is written where it is
            absent, and replaces the calibration where it holds every value of the graph: the prepared graph computes
            the same values under the same names. None, and an older onnxruntime, calibrates always.

    Raises:
        ValueError: onnxruntime's quantizer failed, with its message.

    """
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory(prefix="zsq_") as folder, _quantizer_errors(model, settings):
        types, source = quantization.QuantType, model
        if settings.tuned and prepared is None:
            prepared = Path(folder) / "prepared.onnx"
            _prepare(model, prepared)
        if settings.tuned and prepared is not None:
            source = prepared
            activation = types.QUInt8 if settings.act_bits == 8 else types.QUInt4
        else:
            activation = types.QInt8 if settings.act_bits == 8 else types.QInt4
        quantization.quantize_static(
            source,
            output,
            _reader(batches),
            quant_format=quantization.QuantFormat.QDQ,  # the default
            per_channel=settings.tuned,
            activation_type=activation,
            weight_type=types.QInt8 if settings.weight_bits == 8 else types.QInt4,
            calibrate_method=quantization.CalibrationMethod[settings.method],
            **_range_options(ranges, source),
        )


def prepare_for_onnxruntime(model: Path, prepared: Path) -> None:
    """Write the model as onnxruntime recommends to quantize it: optimised by quant_pre_process, at opset 21 or later.

    Raises:
        ValueError: onnxruntime failed, with its message.

    """
    with _quantizer_errors(model, "quant_pre_process"):
        _prepare(model, prepared)


def _prepare(model: Path, prepared: Path) -> None:
    """Optimise as onnxruntime recommends, at the opset that has 4-bit types."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    loaded = onnx.load(model)
    opset = next(entry.version for entry in loaded.opset_import if entry.domain in ("", "ai.onnx"))
    raised = onnx.version_converter.convert_version(loaded, 21) if opset < 21 else loaded
    quant_pre_process(raised, prepared, skip_symbolic_shape=True)


def _range_options(ranges: Path | None, graph: Path) -> dict[str, Path]:
    """Options to read or write a file of ranges, where the quantizer has them and where it covers the graph."""
    from onnxruntime import quantization

    option = "calibration_cache_path"
    if ranges is None or option not in inspect.signature(quantization.quantize_static).parameters:
        return {}
    return {option: ranges} if not ranges.exists() or _covers(ranges, graph) else {}


def _covers(ranges: Path, graph: Path) -> bool:
    loaded = onnx.load(graph, load_external_data=False).graph
    constant = {tensor.name for tensor in loaded.initializer} | {""}
    constant |= {name for node in loaded.node if node.op_type == "Constant" for name in node.output}
    values = {name for node in loaded.node for name in (*node.input, *node.output)} - constant
    return values <= set(json.loads(ranges.read_text(encoding="utf-8"))["data"])


def _reader(batches: Iterable[Feeds]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self._batches, None)
            return None if batch is None else dict(batch)

    return Reader()


@contextmanager
def _quantizer_errors(model: Path, what: object) -> Iterator[None]:
    try:
        with _quiet():
            yield
    except MemoryError:
        raise
    except Exception as error:  # the quantizer raises whatever its code runs into
        raise ValueError(f"onnxruntime's quantizer failed on {model} with {what}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the quantizer's log, its output and its warnings."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
