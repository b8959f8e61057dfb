"""compare_models: one float model quantized by this compiler and by onnxruntime, judged on the same samples."""

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from torch import Tensor

from backends.catalog import load_target
from zsq_compile.comparison.calibration_sources import (
    CalibrationSource,
    calibration_count,
    random_source,
    real_source,
    synthetic_source,
)
from zsq_compile.comparison.confident_samples import ConfidentSamples
from zsq_compile.comparison.measure import Judge, first_line, measure_rows
from zsq_compile.comparison.onnxruntime_variants import onnxruntime_bits, onnxruntime_rows
from zsq_compile.comparison.result import ComparedModel, Comparison
from zsq_compile.compiler import compile_model, synthesize
from zsq_compile.config.checks import require_count
from zsq_compile.config.compile import CompileConfig
from zsq_compile.data.dataset import FORMS, Dataset, load_data
from zsq_compile.data.input_spec import fixed_batch
from zsq_compile.data.posterior import Posterior, best_of
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.errors import ConfigError, QuantizationError, ValidationError
from zsq_compile.files import file_sha256, write_model
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.progress import Progress, Silent
from zsq_compile.quantization.samples import count_value_bytes
from zsq_compile.reporting.report import Report
from zsq_compile.stages.calibration_data import hold_out
from zsq_compile.stages.estimate_agreement import make_estimate_inputs

Arrays = Mapping[str, NDArray[Any]]


def compare_models(
    model: str | Path,
    config: CompileConfig | None = None,
    *,
    data: Path | None = None,
    calib_data: Path | None = None,
    others: Sequence[Path] = (),
    folder: Path | None = None,
    calib_samples: int | None = None,
    started: float | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Quantize one float model with every available quantizer and setting, and measure all files side by side.

    The quantizers are this one, with the data that it synthesizes, and ``onnxruntime.quantization.quantize_static``
    with its defaults and with its best settings, by each of its calibration methods, on each kind of data. All files
    are judged on the same samples and timed in turns in one run.

    Args:
        model: path of the float model.
        config: of our own compilation; its bits are also those of onnxruntime's quantizer, as far as it has them.
        data: real samples to judge with (see ``data.dataset``); None judges on held-out synthetic samples.
        calib_data: real samples to calibrate onnxruntime's quantizer on, in the same forms.
        others: further quantized files of the same model.
        folder: where to keep the files, made when it is not there; None keeps none.
        calib_samples: samples that onnxruntime is calibrated on; None takes 256, or as many as fit into memory.
        started: moment, on the clock of ``time.perf_counter``, from which ``time_budget`` counts; None is now.
        progress: receives stages, notes and warnings.

    Raises:
        ZsqError: the float model, the data or the settings cannot be used. A quantizer that fails is a row with its
            reason instead.

    """
    config, progress = config or CompileConfig(), progress or Silent()
    require_count("calib_samples", calib_samples)
    _require_files(data, calib_data, others)
    with _place(folder) as place:
        loaded = load_model(Path(model), input_shapes=config.input.shapes, fix_shapes=config.input.fix_shapes)
        for given, option in ((data, "--data"), (calib_data, "--calib-data")):
            _dataset(given, loaded, None, option)  # before the long work
        ours = _compile_ours(loaded, place, config, started, progress)
        confident = ConfidentSamples(loaded=loaded, posteriors=ours.posteriors, config=config, progress=progress)
        judged = _dataset(data, loaded, ours.image_preprocessing, "--data")
        real = _dataset(calib_data, loaded, ours.image_preprocessing, "--calib-data")
        count = calibration_count(sum(count_value_bytes(loaded.model)), calib_samples)
        sources = [] if real is None or calib_data is None else [real_source(real, calib_data, loaded.face, count)]
        synthetic, seconds = _synthetic_source(loaded, ours, confident, count)
        sources += [synthetic, random_source(loaded.inputs, loaded.face, count, config.seed)]
        source = _float_file(loaded, place)
        rows = [ours.row, *onnxruntime_rows(source, place, sources, seconds, config, progress)]
        rows += [ComparedModel(kind="given", name=path.name, calibrated_on="unknown", path=path) for path in others]
        measured = measure_rows(_judge(loaded, source, judged, ours, confident), rows, progress)
    kept, image = (loaded.path, *others), ours.image_preprocessing
    return Comparison(
        model=loaded.path,
        rows=tuple(
            row if folder is not None or row.path in kept else dataclasses.replace(row, path=None) for row in measured
        ),
        judged_on=f"samples of {data}" if judged is not None else "held-out synthetic samples",
        judged_on_real=judged is not None,
        samples=len(judged) if judged is not None else _count(ours.held_out),
        calibration={source.kind: source.description for source in sources},
        contract=None if image is None else image.to_json(),
        notes=tuple(_notes(config, data, calib_data, ours)),
        held_out_agreement=None if ours.report is None else ours.report.validation.agreement,
        agreement_estimate=None if ours.report is None else ours.report.agreement_estimate,
        expected_agreement=None if ours.report is None else ours.report.expected_agreement,
        settings=dataclasses.asdict(config),
        seed=config.seed,
        sha256=file_sha256(loaded.path),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Ours:
    """Our own file, and the data that it was made with."""

    row: ComparedModel
    calibration: Arrays
    held_out: Arrays
    posteriors: Mapping[str, Posterior]
    hypotheses: Tensor | None
    data_seconds: float
    report: Report | None

    @property
    def image_preprocessing(self) -> Preprocessing | None:
        """Preprocessing of the first image input."""
        return next((one for one in best_of(self.posteriors).values() if one.layout is not None), None)


def _compile_ours(
    loaded: LoadedModel, place: Path, config: CompileConfig, started: float | None, progress: Progress
) -> _Ours:
    """Compile; where that fails after the synthesis, the data is made again for the others."""
    path = place / f"{loaded.path.stem}.ours.onnx"
    row = ComparedModel(kind="ours", name="ours", calibrated_on="synthetic", path=path)
    begun, report = time.perf_counter(), None
    try:
        result = compile_model(loaded.path, path, config, started=started, progress=progress)
    except (QuantizationError, ValidationError) as error:
        progress.warn(f"our own compilation failed: {error}")
        row = dataclasses.replace(row, path=None, failure=first_line(error))
        begun = time.perf_counter()
        made = synthesize(loaded.path, config, progress=progress)
        data_seconds = time.perf_counter() - begun
    else:
        assert result.synthetic is not None  # no calibration data was given
        made, report = result.synthetic, result.report
        seconds = sum(taken for stage, taken in report.stages.items() if stage != "validate")
        row = dataclasses.replace(row, seconds=min(seconds, time.perf_counter() - begun))
        data_seconds = report.stages["synthesize"]
    calibration, held_out = hold_out(made.inputs, fixed_batch(loaded.inputs), made.hypotheses)
    return _Ours(
        row=row,
        calibration=calibration.arrays(),
        held_out=held_out.arrays(),
        posteriors=made.posteriors,
        hypotheses=calibration.populations,
        data_seconds=data_seconds,
        report=report,
    )


def _synthetic_source(
    loaded: LoadedModel, ours: _Ours, confident: ConfidentSamples, count: int
) -> tuple[CalibrationSource, float]:
    """Return our data as ``synth`` writes it, and the seconds that making it takes."""
    begun = time.perf_counter()
    source = synthetic_source(confident.add_to(ours.calibration, ours.hypotheses), loaded.inputs, loaded.face, count)
    return source, ours.data_seconds + time.perf_counter() - begun


def _float_file(loaded: LoadedModel, place: Path) -> Path:
    """Path of the float model: the user's file, or a dequantized copy of a quantized one."""
    if loaded.restored_bytes is None:
        return loaded.path
    path = place / f"{loaded.path.stem}.float.onnx"
    write_model(ir.from_proto(loaded.original), path)
    return path


def _judge(
    loaded: LoadedModel, source: Path, judged: Dataset | None, ours: _Ours, confident: ConfidentSamples
) -> Judge:
    held_out = Dataset(samples=ours.held_out, labels=None, preparation=None)
    return Judge(
        loaded=loaded,
        file=source,
        data=held_out if judged is None else judged,
        sample=ours.held_out,
        providers=load_target(confident.config.target).providers,
        estimate_inputs=confident.extend(
            make_estimate_inputs(loaded.inputs, ours.posteriors, seed=confident.config.seed)
        ),
    )


def _dataset(
    path: Path | None, loaded: LoadedModel, preprocessing: Preprocessing | None, option: str
) -> Dataset | None:
    """Open data of the user; without preprocessing only to see whether it can be opened."""
    return None if path is None else load_data(path, loaded.inputs, preprocessing, option=option)


def _notes(config: CompileConfig, data: Path | None, calib_data: Path | None, ours: _Ours) -> Iterator[str]:
    """Say what the table leaves out, and why."""
    if data is None:
        yield "no --data was given: all files are judged on held-out synthetic samples"
    if calib_data is None:
        yield "no --calib-data was given: onnxruntime was not calibrated on real data (--data is only measured with)"
    for what, bits in (("weights", config.quantization.bits), ("activations", config.quantization.act_bits)):
        if onnxruntime_bits(bits) != bits:
            yield f"onnxruntime's quantizer has no {bits}-bit {what}: its files have {onnxruntime_bits(bits)}"
    yield from () if ours.report is None else ours.report.validation.warnings


def _count(arrays: Arrays) -> int:
    return min((len(array) for array in arrays.values()), default=0)


def _require_files(data: Path | None, calib_data: Path | None, others: Sequence[Path]) -> None:
    """Refuse paths that do not exist before the long work."""
    for option, path in (("--data", data), ("--calib-data", calib_data)):
        if path is not None and not path.exists():
            raise ConfigError(f"{option} wants {FORMS}, got {path}, which does not exist")
    absent = [path for path in others if not path.is_file()]
    if absent:
        raise ConfigError(f"--with wants a quantized ONNX file, got {absent[0]}, which is no file")


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    """Return the folder for the files: the user's, made if need be, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="zsq_") as scratch:
            yield Path(scratch)
        return
    found = folder.is_dir()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"-o wants a folder to keep the files in, got {folder}: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        if not found and not any(folder.iterdir()):  # a refused model leaves nothing behind
            folder.rmdir()
