"""compile_model: the sentence that zsq-compile is, one named call per stage, read from top to bottom."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray

from backends.catalog import AUTO, TargetError, load_target
from backends.machine import detect_target
from backends.session import usable_providers
from backends.target import Target
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.quantize.prepare_float import folded
from zsq_compile.batchnorm.find_statistics import KnownStatistics
from zsq_compile.batchnorm.known_statistics import known_statistics
from zsq_compile.config.compile import CompileConfig
from zsq_compile.config.distillation import require_source
from zsq_compile.data.dataset import load_data
from zsq_compile.differentiable.device import chosen_device
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError, ValidationError
from zsq_compile.files import file_sha256
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.progress import Clock, Progress, Remembering, Silent
from zsq_compile.quantization.mixed_precision.search import explained
from zsq_compile.quantization.plan_file import PlanFile, saved_plan
from zsq_compile.quantization.planning import float_bytes, planned, size_limit
from zsq_compile.reporting.gallery import require_png
from zsq_compile.reporting.report import Report
from zsq_compile.stages.calibration_data import CalibrationData, given_data, require_keepable, synthetic_data
from zsq_compile.stages.estimate_agreement import (
    calibration_source,
    estimate_agreement,
    known_contracts,
    make_estimate_inputs,
)
from zsq_compile.stages.evidence import with_evidence
from zsq_compile.stages.export import Proven, prove
from zsq_compile.stages.gallery import require_image, show_synthetic
from zsq_compile.stages.provenance import record_contract, record_origin
from zsq_compile.stages.provisional_student import provisional_student
from zsq_compile.stages.quantize import FloatNetwork, QuantizedNetwork, quantize_network
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.verification.agreement_estimate import AgreementEstimate
from zsq_compile.version import VERSION


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CompileResult:
    """What a compilation left behind.

    Attributes:
        path: the quantized model.
        report: the evidence.
        synthetic: the data that was synthesized; None when the user gave calibration data.
        gate_missed: the agreement asked for by ``min_agreement`` was not reached; the file is there all the same.
        plan: the width of every layer and value, to be given to another compilation.

    """

    path: Path
    report: Report
    synthetic: SyntheticSet | None
    gate_missed: bool
    plan: PlanFile


def compile_model(
    model: str | Path,
    output: str | Path | None = None,
    config: CompileConfig | None = None,
    *,
    calibration: Mapping[str, NDArray[Any]] | None = None,
    data: Path | None = None,
    given_plan: PlanFile | None = None,
    samples_kept: bool = False,
    pictures_wanted: bool = False,
    started: float | None = None,
    progress: Progress | None = None,
) -> CompileResult:
    """Compile a float ONNX model into a quantized one, and prove it in the runtime.

    Args:
        model: path of the float model.
        output: path of the quantized model; None writes ``<model>.w<bits>a<bits>.onnx`` beside it.
        config: everything that can be decided.
        calibration: network inputs by name, (count, ...), to use instead of synthesized ones.
        data: labelled images or arrays, only to measure the result with (see ``verification.dataset``).
        given_plan: widths of single layers and values; what it does not name is as ``config`` says.
        samples_kept: the synthesized samples are to be written with ``sample_arrays``, whose names must be free.
        pictures_wanted: the report is to hold some of the synthesized images.
        started: moment, on the clock of ``time.perf_counter``, from which ``time_budget`` counts; None is now.
        progress: is told of stages, notes and warnings.

    Raises:
        ZsqError: in words; see ``zsq_compile.errors`` for the family.

    """
    config, told = config or CompileConfig(), Remembering(progress or Silent())
    config.require_possible()
    clock, target = Clock(told, started), _target(config, told)
    path, device = _output_path(Path(model), output, data, config), chosen_device(config.device)
    with clock.stage("load"):
        loaded, known = _loaded(Path(model), config, told, samples_kept)
        statistics = known.statistics
    with clock.stage("plan"):
        float_model = _folded(loaded, statistics, target, config)
        plan = planned(float_model, target, config, _fitting(given_plan, loaded, config, told))
        limit = size_limit(float_model, target, config, float_bytes(loaded))
    with clock.stage("synthesize" if calibration is None else "read calibration data"):
        samples = _calibration_data(loaded, statistics, target, config, calibration, told, device)
        record_contract(float_model, None if samples.contract is None else samples.contract.to_json())
        labelled = None if data is None else load_data(data, loaded.inputs, samples.contract)
    network = FloatNetwork(
        model=float_model,
        target=target,
        statistics=_still_true(statistics, config),
        samples=samples,
        inputs=loaded.inputs,
        config=config,
        device=device,
        limit=limit,
    )
    quantized = quantize_network(network, plan, clock)
    proven = prove(loaded, quantized, path, network, labelled, clock)
    with clock.stage("validate"):
        expected = _expected(loaded, path, known, samples, target, config.seed)
    report = _report(loaded, path, config, known, samples, quantized, proven, expected, told.texts, clock)
    report = with_evidence(report, loaded, statistics, samples, device, clock, pictures_wanted=pictures_wanted)
    return _concluded(report, config, samples.synthetic, saved_plan(quantized.plan, report.sha256["model"]))


def synthesize(
    model: str | Path,
    config: CompileConfig | None = None,
    *,
    gallery: Path | None = None,
    samples_kept: bool = False,
    progress: Progress | None = None,
) -> SyntheticSet:
    """Synthesize calibration data for a float ONNX model, and do nothing else with it.

    Args:
        model: path of the float model.
        config: its input, checkpoint, bn_stats, generator, low_pass, confident_share, samples, effort, device and seed
            are used.
        gallery: PNG file to show the images in, with the class that the network sees in each.
        samples_kept: see ``compile_model``.
        progress: is told of stages, notes and warnings.

    """
    config, progress = config or CompileConfig(), progress or Silent()
    device = chosen_device(config.device)
    if gallery is not None:
        require_png(gallery)
    with progress.stage("load"):
        loaded, known = _loaded(Path(model), config, progress, samples_kept)
        statistics = known.statistics
    if gallery is not None:
        require_image(loaded.inputs)
    teacher = TorchGraph(loaded.model, device=device)
    student = partial(provisional_student, loaded, statistics, _target(config, progress), config, device)
    data = synthetic_data(teacher, statistics, loaded.inputs, config, progress, hold_out=False, student=student)
    made = data.synthetic
    assert made is not None
    if gallery is not None:
        show_synthetic(gallery, loaded.path.name, teacher, loaded.inputs, made)
    return made


def _still_true(statistics: BatchNormStatistics, config: CompileConfig) -> BatchNormStatistics:
    """Leave statistics out that hold no longer, as those of a model whose channels were equalized."""
    return replace(statistics, entries=()) if config.quantization.equalize else statistics


def _concluded(report: Report, config: CompileConfig, synthetic: SyntheticSet | None, plan: PlanFile) -> CompileResult:
    """Refuse a file that its runtime does not compute, and see whether the agreement asked for was reached."""
    validation = report.validation
    if validation.failures:
        raise ValidationError(f"{report.emitted} was written, but must not be used: {'; '.join(validation.failures)}")
    missed = config.min_agreement is not None and (report.expected_agreement or 0.0) < config.min_agreement
    return CompileResult(path=report.emitted, report=report, synthetic=synthetic, gate_missed=missed, plan=plan)


def _report(
    loaded: LoadedModel,
    path: Path,
    config: CompileConfig,
    known: KnownStatistics,
    samples: CalibrationData,
    quantized: QuantizedNetwork,
    proven: Proven,
    expected: AgreementEstimate,
    notes: Sequence[str],
    clock: Clock,
) -> Report:
    return Report(
        model=loaded.path,
        emitted=path,
        settings=dataclasses.asdict(config),
        seed=config.seed,
        stages=clock.seconds,
        coverage=known.statistics.coverage(),
        statistics=known.plain(),
        contract=None if samples.contract is None else samples.contract.to_json(),
        data=samples.description,
        learning=tuple(dataclasses.asdict(block) for block in quantized.blocks),
        distillation=_explained_distillation(quantized),
        mixed=None if quantized.choice is None else explained(quantized.choice),
        refusals=(*known.statistics.refusals, *quantized.plan.refusals),
        notes=tuple(notes),
        validation=proven.validation,
        speed_trials=() if proven.trials is None else tuple(dataclasses.asdict(one) for one in proven.trials.trials),
        agreement_estimate=expected,
        layers=quantized.layers,
        sha256={"model": file_sha256(loaded.path), "emitted": file_sha256(path)},
    )


def _explained_distillation(quantized: QuantizedNetwork) -> dict[str, Any] | None:
    record = quantized.distillation
    return None if record is None else {**dataclasses.asdict(record), "summary": record.words()}


def _loaded(
    model: Path, config: CompileConfig, progress: Progress, samples_kept: bool
) -> tuple[LoadedModel, KnownStatistics]:
    loaded = load_model(model, input_shapes=config.input.shapes)
    known = known_statistics(loaded, config, progress)
    if samples_kept:
        require_keepable(loaded.inputs, config)
    return loaded, known


def _target(config: CompileConfig, progress: Progress) -> Target:
    try:
        target = load_target(config.target)
    except TargetError as error:
        raise ConfigError(str(error)) from error
    if config.target == AUTO:
        progress.note(f"target: {target.name}, because {detect_target().reason}")
    if usable_providers(target.providers) != target.providers:
        progress.warn(
            f"{target.providers[0]} is not installed here: the file is held to the rules of {target.name}, but run, "
            "timed and compared on the processor"
        )
    return target


def _folded(loaded: LoadedModel, statistics: BatchNormStatistics, target: Target, config: CompileConfig) -> ir.Model:
    """Fold the float model, and let it say where it comes from."""
    model = folded(loaded.model, statistics, config.quantization.equalize)
    source = file_sha256(loaded.path)
    record_origin(model, version=VERSION, seed=config.seed, target=target.name, source_sha256=source)
    return model


def _output_path(model: Path, output: str | Path | None, data: Path | None, config: CompileConfig) -> Path:
    """Where to write; an hour of work should not end in a name that is misspelt, nor that of the data."""
    if data is not None and not data.exists():
        raise ConfigError(f"--data wants a folder or an .npz file, got {data}, which does not exist")
    widths = "mixed" if config.mixed else f"w{config.quantization.bits}a{config.quantization.act_bits}"
    path = Path(output) if output is not None else model.with_name(f"{model.stem}.{widths}.onnx")
    if path.resolve() == model.resolve():
        raise ConfigError(f"the output {path} is the input itself: give another name with -o")
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"the output must be a file in a folder that exists, got {path}")
    return path


def _calibration_data(
    loaded: LoadedModel,
    statistics: BatchNormStatistics,
    target: Target,
    config: CompileConfig,
    calibration: Mapping[str, NDArray[Any]] | None,
    progress: Progress,
    device: torch.device,
) -> CalibrationData:
    if calibration is not None:
        require_source(config.distill, "leave --calib out, whose samples stay as they are")
        return given_data(calibration, TorchGraph(loaded.model), statistics, loaded.inputs, config)
    teacher = TorchGraph(loaded.model, device=device)
    student = partial(provisional_student, loaded, statistics, target, config, device)
    return synthetic_data(teacher, statistics, loaded.inputs, config, progress, student=student)


def _fitting(given: PlanFile | None, loaded: LoadedModel, config: CompileConfig, progress: Progress) -> PlanFile | None:
    """Warn of a plan that was made for another file, and refuse one beside ``mixed``."""
    if given is None:
        return None
    if config.mixed:
        raise ConfigError("mixed chooses widths and a plan gives them: leave one out")
    if given.model_sha256 and given.model_sha256 != file_sha256(loaded.path):
        progress.warn(f"the plan was made for another file than {loaded.path}: its widths may not suit this one")
    return given


def _expected(
    loaded: LoadedModel, path: Path, known: KnownStatistics, samples: CalibrationData, target: Target, seed: int
) -> AgreementEstimate:
    """Estimate the agreement on real data, on inputs that calibration has not seen."""
    inputs = make_estimate_inputs(loaded.inputs, known_contracts(loaded.inputs, samples), seed=seed)
    providers = usable_providers(target.providers)
    return estimate_agreement(loaded.original, path, inputs, calibration_source(known, samples), providers=providers)
