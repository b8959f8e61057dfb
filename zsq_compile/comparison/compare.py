"""compare_models: one float model through us and through onnxruntime's own quantizer, judged by the same samples."""

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from backends.catalog import load_target
from zsq_compile.comparison.calibration_sources import (
    CalibrationSource,
    random_source,
    real_source,
    sensible_count,
    synthetic_source,
)
from zsq_compile.comparison.confident_samples import ConfidentSamples
from zsq_compile.comparison.measure import Judge, first_line, measured_rows
from zsq_compile.comparison.onnxruntime_variants import onnxruntime_rows, onnxruntime_width
from zsq_compile.comparison.result import ComparedModel, Comparison
from zsq_compile.compiler import compile_model, synthesize
from zsq_compile.config.checks import require_count
from zsq_compile.config.compile import CompileConfig
from zsq_compile.data.dataset import Dataset, load_data
from zsq_compile.data.input_spec import fixed_batch
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.errors import ConfigError, QuantizationError, ValidationError
from zsq_compile.files import file_sha256, write_model
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.progress import Progress, Silent
from zsq_compile.reporting.report import Report
from zsq_compile.stages.calibration_data import set_apart, value_bytes
from zsq_compile.stages.estimate_agreement import make_estimate_inputs
from zsq_compile.synthesis.generator import SyntheticSet

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
    """Quantize one float model in every way that stands to choice, and measure all files side by side.

    The ways are ours, with the data that it synthesizes, and ``onnxruntime.quantization.quantize_static`` with its
    defaults and with its best settings, by each of its calibration methods, on each kind of data there is. All files
    are judged on the same samples and timed in turns in one run.

    Args:
        model: path of the float model.
        config: what ours is told, as in ``compile_model``; its widths are also those of onnxruntime's quantizer, as
            far as it has them.
        data: real samples to judge with (see ``verification.dataset``); None judges on synthetic samples held out.
        calib_data: real samples to calibrate onnxruntime's quantizer on, in the same forms.
        others: further quantized files of the same model.
        folder: where to keep the files, made when it is not there; None keeps none.
        calib_samples: samples that onnxruntime is calibrated on; None takes 256, or as many as fit into memory.
        started: moment, on the clock of ``time.perf_counter``, from which ``time_budget`` counts; None is now.
        progress: is told of stages, notes and warnings.

    Raises:
        ZsqError: the float model, the data or the settings cannot be used. A way of quantizing that fails is a row
            with its reason instead.

    """
    config, progress = config or CompileConfig(), progress or Silent()
    require_count("calib_samples", calib_samples)
    _require_files(data, calib_data, others)
    with _place(folder) as place:
        loaded = load_model(Path(model), input_shapes=config.input.shapes)
        for given, option in ((data, "--data"), (calib_data, "--calib-data")):
            _dataset(given, loaded, None, option)  # before the long work
        ours = _ours(loaded, place, config, started, progress)
        sure = ConfidentSamples(loaded=loaded, contracts=ours.contracts, config=config, progress=progress)
        judged = _dataset(data, loaded, ours.contract, "--data")
        real = _dataset(calib_data, loaded, ours.contract, "--calib-data")
        count = sensible_count(sum(value_bytes(loaded.model)), calib_samples)
        sources = [] if real is None or calib_data is None else [real_source(real, calib_data, loaded.inputs, count)]
        made, seconds = _handed_on(loaded, ours, sure, count)
        sources += [made, random_source(loaded.inputs, count, config.seed)]
        source = _float_file(loaded, place)
        rows = [ours.row, *onnxruntime_rows(source, place, sources, seconds, config, progress)]
        rows += [ComparedModel(name=f"{path.name}", calibrated_on="unknown", path=path) for path in others]
        measured = measured_rows(_judge(loaded, source, judged, ours, sure), rows, progress)
    kept = (loaded.path, *others)
    return _concluded(
        loaded,
        ours,
        [row if folder is not None or row.path in kept else dataclasses.replace(row, path=None) for row in measured],
        judged,
        data,
        {source.kind: source.words for source in sources},
        _notes(config, data, calib_data, ours),
        config,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Ours:
    """Our own file, and the data that it was made with."""

    row: ComparedModel
    calibration: Arrays
    held_out: Arrays
    contracts: Mapping[str, Preprocessing]
    data_seconds: float
    report: Report | None

    @property
    def contract(self) -> Preprocessing | None:
        """What the first image input expects."""
        return next(iter(self.contracts.values()), None)


def _ours(loaded: LoadedModel, place: Path, config: CompileConfig, started: float | None, progress: Progress) -> _Ours:
    """Compile; where that fails behind the synthesis, the data is made again for the others."""
    path = place / f"{loaded.path.stem}.ours.onnx"
    row = ComparedModel(name="ours", calibrated_on="synthetic", path=path)
    begun = time.perf_counter()
    try:
        result = compile_model(loaded.path, path, config, started=started, progress=progress)
    except (QuantizationError, ValidationError) as error:
        progress.warn(f"our own compilation failed: {error}")
        failed = dataclasses.replace(row, path=None, failure=first_line(error))
        begun = time.perf_counter()
        made = synthesize(loaded.path, config, progress=progress)
        return _with_data(failed, made, loaded, time.perf_counter() - begun, None)
    assert result.synthetic is not None  # no calibration data was given
    stages = result.report.stages
    seconds = sum(taken for stage, taken in stages.items() if stage != "validate")
    row = dataclasses.replace(row, seconds=min(seconds, time.perf_counter() - begun))
    return _with_data(row, result.synthetic, loaded, stages["synthesize"], result.report)


def _with_data(
    row: ComparedModel,
    made: SyntheticSet,
    loaded: LoadedModel,
    seconds: float,
    report: Report | None,
) -> _Ours:
    calibration, held_out = set_apart(made.inputs, fixed_batch(loaded.inputs) or 1)
    return _Ours(
        row=row,
        calibration={name: tensor.numpy() for name, tensor in calibration.items()},
        held_out={name: tensor.numpy() for name, tensor in held_out.items()},
        contracts=made.contracts,
        data_seconds=seconds,
        report=report,
    )


def _concluded(
    loaded: LoadedModel,
    ours: _Ours,
    rows: Iterable[ComparedModel],
    judged: Dataset | None,
    data: Path | None,
    calibration: Mapping[str, str],
    notes: Iterable[str],
    config: CompileConfig,
) -> Comparison:
    expected = None if ours.report is None else ours.report.expected_agreement
    return Comparison(
        model=loaded.path,
        rows=tuple(rows),
        judged_on=f"samples of {data}" if judged is not None else "synthetic samples held out",
        judged_on_real=judged is not None,
        samples=len(judged) if judged is not None else _count(ours.held_out),
        calibration=calibration,
        contract=None if ours.contract is None else ours.contract.to_json(),
        notes=tuple(notes),
        held_out_agreement=None if ours.report is None else ours.report.validation.agreement,
        agreement_estimate=None if ours.report is None else ours.report.agreement_estimate,
        expected_agreement=expected,
        gate_missed=config.min_agreement is not None and (expected or 0.0) < config.min_agreement,
        settings=dataclasses.asdict(config),
        seed=config.seed,
        sha256=file_sha256(loaded.path),
    )


def _handed_on(loaded: LoadedModel, ours: _Ours, sure: ConfidentSamples, count: int) -> tuple[CalibrationSource, float]:
    """Give onnxruntime our data as ``synth`` hands it on, and tell the seconds that making it takes."""
    begun = time.perf_counter()
    source = synthetic_source(loaded.path, sure.among(ours.calibration), loaded.inputs, count)
    return source, ours.data_seconds + time.perf_counter() - begun


def _float_file(loaded: LoadedModel, place: Path) -> Path:
    """File of the float model: that of the user, or one of the float form of a quantized one."""
    if loaded.restored_bytes is None:
        return loaded.path
    path = place / f"{loaded.path.stem}.float.onnx"
    write_model(ir.from_proto(loaded.original), path)
    return path


def _judge(loaded: LoadedModel, source: Path, judged: Dataset | None, ours: _Ours, sure: ConfidentSamples) -> Judge:
    held_out = Dataset(samples=ours.held_out, labels=None, preparation=None)
    return Judge(
        loaded=loaded,
        file=source,
        data=held_out if judged is None else judged,
        sample=ours.held_out,
        providers=load_target(sure.config.target).providers,
        estimate_inputs=sure.probing(make_estimate_inputs(loaded.inputs, ours.contracts, seed=sure.config.seed)),
    )


def _dataset(path: Path | None, loaded: LoadedModel, contract: Preprocessing | None, option: str) -> Dataset | None:
    """Open data of the user; without a contract only to see whether it can be opened."""
    return None if path is None else load_data(path, loaded.inputs, contract, option=option)


def _notes(config: CompileConfig, data: Path | None, calib_data: Path | None, ours: _Ours) -> Iterator[str]:
    """Say what the table leaves out, and why."""
    if data is None:
        yield "no --data was given: all files are judged on synthetic samples, on which none was calibrated"
    if calib_data is None:
        yield "no --calib-data was given: onnxruntime was not calibrated on real data (--data is only measured with)"
    for what, bits in (("weights", config.quantization.bits), ("activations", config.quantization.act_bits)):
        if onnxruntime_width(bits) != bits:
            yield f"onnxruntime's quantizer has no {bits}-bit {what}: its files have {onnxruntime_width(bits)}"
    yield from () if ours.report is None else ours.report.validation.warnings


def _count(arrays: Arrays) -> int:
    return min((len(array) for array in arrays.values()), default=0)


def _require_files(data: Path | None, calib_data: Path | None, others: Sequence[Path]) -> None:
    """Find names that are misspelt before the long work."""
    for option, path in (("--data", data), ("--calib-data", calib_data)):
        if path is not None and not path.exists():
            raise ConfigError(f"{option} wants a folder or an .npz file, got {path}, which does not exist")
    absent = [path for path in others if not path.is_file()]
    if absent:
        raise ConfigError(f"--with wants a quantized ONNX file, got {absent[0]}, which is no file")


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    """Give the folder for the files: the user's, made if need be, or one that goes again."""
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
