"""The compilation pipeline, one call per stage: ``compile_model``; and its first half alone: ``synthesize``."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx_ir as ir
import torch

from backends.catalog import AUTO, TargetError, load_target
from backends.machine import detect_target
from backends.session import usable_providers
from backends.target import Target
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.plan import QuantizationPlan
from zsq_compile.batchnorm.find_statistics import KnownStatistics, find_statistics
from zsq_compile.config.compile import CompileConfig
from zsq_compile.data.dataset import FORMS, Dataset, load_data
from zsq_compile.data.input_spec import fixed_batch
from zsq_compile.differentiable.device import choose_device
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError, ValidationError
from zsq_compile.failures import told_in_words
from zsq_compile.files import file_sha256
from zsq_compile.frontend.load import LoadedModel, load_model, report_loading
from zsq_compile.progress import Clock, Progress, Silent
from zsq_compile.quantization.even_channels import even_channels
from zsq_compile.quantization.placement.leave_float import LeaveFloat
from zsq_compile.quantization.plan_file import PlanFile, make_plan_file
from zsq_compile.quantization.planning import float_bytes, plan_quantization, resolve_limit
from zsq_compile.quantization.state import FloatNetwork
from zsq_compile.reporting.gallery import require_png
from zsq_compile.reporting.report import Report
from zsq_compile.stages.answering_family import AnsweringFamily, wants_answers
from zsq_compile.stages.calibration_data import (
    CalibrationData,
    count_in_batches,
    default_count,
    require_keepable,
)
from zsq_compile.stages.estimate_agreement import estimate_agreement, make_estimate_inputs
from zsq_compile.stages.evidence import build_report, gather_evidence
from zsq_compile.stages.export import Exported, export
from zsq_compile.stages.gallery import require_image, show_synthetic
from zsq_compile.stages.gate import is_missed, require_share
from zsq_compile.stages.like import Given, require_places, shapes_like
from zsq_compile.stages.live_samples import make_live
from zsq_compile.stages.make_data import choose_generator, find_examples, make_data
from zsq_compile.stages.provenance import origin_of, stamp
from zsq_compile.stages.quantize import Quantized, fold_network, is_learned, is_wide, quantize, steps_for
from zsq_compile.stages.recognise_task import recognise_task
from zsq_compile.stages.user_metric import UserJudge
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.verification.agreement_estimate import AgreementEstimate


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


@told_in_words()
def compile_model(
    model: str | Path,
    output: str | Path | None = None,
    config: CompileConfig | None = None,
    *,
    calibration: Given | None = None,
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
        calibration: network inputs by name, (count, ...), or the files and folders that hold real inputs (see
            ``data.dataset``), to use instead of synthesized ones, or beside them where they are few.
        data: labelled images or arrays, only to measure the result with (see ``verification.dataset``).
        given_plan: widths of single layers and values; what it does not name is as ``config`` says.
        samples_kept: the synthesized samples are to be written with ``sample_arrays``, whose names must be free.
        pictures_wanted: the report is to hold some of the synthesized images.
        started: moment, on the clock of ``time.perf_counter``, from which ``time_budget`` counts; None is now.
        progress: receives stages, notes and warnings.

    Raises:
        ZsqError: in words; see ``zsq_compile.errors`` for the family.

    """
    config, clock = config or CompileConfig(), Clock(progress or Silent(), started)
    target, device = _choose_target(config.target, clock.progress), choose_device(config.device)
    path = _choose_output(Path(model), output, data, calibration, config)
    with clock.stage("load"):
        loaded, known = _load(Path(model), target, config, clock.progress, samples_kept=samples_kept)
        judge = _require_judge(loaded, target, config, clock.progress)
    with clock.stage("plan"):
        folded, statistics = _fold(loaded, known, target, config, given_plan, clock.progress)
        folded = stamp(folded, origin := origin_of(loaded, target, config.seed))
        plan = plan_quantization(folded, target, config.quantization, given_plan)
        limit = resolve_limit(folded, target, config.quantization, config.max_size, float_bytes(loaded))
    with clock.stage("synthesize" if calibration is None else "read calibration data"):
        samples = make_data(loaded, known, target, config, calibration, clock.progress)
        labelled = None if data is None else load_data(data, loaded.inputs, samples.image_preprocessing)
    if config.quantization.even_channels:
        folded, statistics = even_channels(folded, statistics, plan, samples.calibration, clock.progress)
    teacher = TorchGraph(stamp(folded, replace(origin, contract=samples.plain_preprocessing())))
    network = FloatNetwork(
        teacher=teacher,
        target=target,
        statistics=statistics,
        calibration=samples.calibration,
        held_out=samples.held_out.comparable(folded),
        limit=limit,
        device=device,
        asked=None if judge is None else judge.kept,
        task=recognise_task(loaded, teacher, samples.held_out, config.task, clock.progress),
    )
    live = make_live(samples.synthetic, config.distill, config.generator, config.low_pass, clock.progress)
    quantized = quantize(network, plan, steps_for(config, live), clock)
    exported, quantized = _export(loaded, network, quantized, path, config, labelled, clock)
    estimate = _estimate(loaded, path, samples, network, config, clock, shown=calibration is not None)
    with clock.stage("collect report data"):
        look = partial(gather_evidence, pictures_wanted=pictures_wanted, judge=judge)
        evidence = look(loaded, samples, network, quantized.state.plan, exported, estimate)
    report = build_report(config, loaded, samples, quantized, exported, evidence, clock)
    return _conclude(report, config.min_agreement, samples.synthetic, quantized.state.plan)


@told_in_words()
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
        progress: receives stages, notes and warnings.

    """
    config, progress = config or CompileConfig(), progress or Silent()
    if gallery is not None:
        require_png(gallery)
    target = _choose_target(config.target, progress)
    with progress.stage("load"):
        loaded, known = _load(Path(model), target, config, progress, samples_kept=samples_kept)
    if gallery is not None:
        require_image(loaded.inputs)
    examples = find_examples(loaded, known, config, progress)
    generator = choose_generator(loaded, known, target, config, progress, handed_on=True, examples=examples)
    count = config.samples or default_count(loaded.inputs, config.effort, learned=is_learned(config), examples=examples)
    count = count_in_batches(count, fixed_batch(loaded.inputs), hold_out=False)
    teacher = TorchGraph(loaded.model, device=choose_device(config.device))
    made = generator.synthesize(teacher, known.statistics, count, torch.Generator().manual_seed(config.seed))
    if gallery is not None:
        show_synthetic(gallery, loaded.path.name, teacher, loaded.inputs, made)
    return made


def _load(
    model: Path, target: Target, config: CompileConfig, progress: Progress, *, samples_kept: bool
) -> tuple[LoadedModel, KnownStatistics]:
    asked, newest = config.input, target.newest_opset
    shapes = {**shapes_like(asked.like, model), **asked.shapes}
    loaded = load_model(model, input_shapes=shapes, fix_shapes=asked.fix_shapes, newest_opset=newest)
    report_loading(loaded, progress)
    known = find_statistics(loaded, checkpoint=config.checkpoint, bn_stats=config.bn_stats, progress=progress)
    if samples_kept:
        require_keepable(loaded.inputs, config.generator)
    return loaded, known


def _choose_target(name: str, progress: Progress) -> Target:
    try:
        target = load_target(name)
    except TargetError as error:
        raise ConfigError(str(error)) from error
    if name == AUTO:
        progress.note(f"target: {target.name}, because {detect_target().reason}")
    if usable_providers(target.providers) != target.providers:
        progress.warn(
            f"{target.providers[0]} is not installed here: the file is held to the rules of {target.name}, but run, "
            "timed and compared on the processor"
        )
    return target


def _choose_output(
    model: Path, output: str | Path | None, data: Path | None, calibration: Given | None, config: CompileConfig
) -> Path:
    """Resolve the output path; what is bad, or cannot be made, is refused before the work."""
    config.require_possible()
    if data is not None and not data.exists():
        raise ConfigError(f"--data wants {FORMS}, got {data}, which does not exist")
    require_places(calibration)
    widths = "mixed" if config.mixed else f"w{config.quantization.bits}a{config.quantization.act_bits}"
    path = Path(output) if output is not None else model.with_name(f"{model.stem}.{widths}.onnx")
    if path.resolve() == model.resolve():
        raise ConfigError(f"the output {path} is the input itself: give another name with -o")
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"the output must be a file in a folder that exists, got {path}")
    return path


def _require_judge(loaded: LoadedModel, target: Target, config: CompileConfig, progress: Progress) -> UserJudge | None:
    """Refuse before the work a gate that no file can pass, or a metric that does not work on the float model."""
    if config.metric is None:
        require_share(loaded, config.task, config.min_agreement)
        return None
    return UserJudge(config.metric, loaded, target, progress)


def _fold(
    loaded: LoadedModel,
    known: KnownStatistics,
    target: Target,
    config: CompileConfig,
    given: PlanFile | None,
    progress: Progress,
) -> tuple[ir.Model, BatchNormStatistics]:
    _require_suitable(given, loaded, config, progress)
    return fold_network(
        loaded.model,
        known.statistics,
        equalize=config.quantization.equalize,
        merge=is_wide(config.quantization, config.mixed, given),
        target=target,
    )


def _export(
    loaded: LoadedModel,
    network: FloatNetwork,
    quantized: Quantized,
    path: Path,
    config: CompileConfig,
    labelled: Dataset | None,
    clock: Clock,
) -> tuple[Exported, Quantized]:
    """Write the file, in the form that the clock chose, and let what is known of the layers be that of this form."""
    write = partial(
        export,
        speed_trials=config.speed_trials,
        chosen_on=config.mixed or quantized.records.get(LeaveFloat.name) is not None,
    )
    exported = write(loaded, network, quantized.state, path, clock, labelled=labelled)
    return exported, quantized if exported.state is None else quantized.replaced(network, exported.state, clock)


def _require_suitable(given: PlanFile | None, loaded: LoadedModel, config: CompileConfig, progress: Progress) -> None:
    """Warn of a plan that was made for another file, and refuse one beside ``mixed``."""
    if given is None:
        return
    if config.mixed:
        raise ConfigError("mixed chooses widths and a plan gives them: leave one out")
    if given.model_sha256 and given.model_sha256 != file_sha256(loaded.path):
        progress.warn(f"the plan was made for another file than {loaded.path}: its widths may not suit this one")


def _estimate(
    loaded: LoadedModel,
    path: Path,
    data: CalibrationData,
    network: FloatNetwork,
    config: CompileConfig,
    clock: Clock,
    *,
    shown: bool,
) -> AgreementEstimate:
    """Estimate the agreement on real data, on inputs that calibration has not seen."""
    task, target, answering = network.task, network.target, None
    if task is not None and wants_answers(task):
        answering = AnsweringFamily(teacher=network.teacher, effort=config.effort, progress=clock.progress)
    with clock.stage("validate"):
        inputs = make_estimate_inputs(
            loaded.inputs,
            data.posteriors,
            seed=config.seed,
            shown=shown or (data.examples is not None and data.examples.show(loaded.inputs)),
            examples=data.examples,
            task=task,
            answering=answering,
        )
        return estimate_agreement(
            loaded.original,
            path,
            inputs,
            data.origin,
            providers=usable_providers(target.providers),
            config=target.session_config,
            axes=loaded.face.axes,
            uneven=loaded.uneven_outputs,
        )


def _conclude(
    report: Report, min_agreement: float | None, synthetic: SyntheticSet | None, plan: QuantizationPlan
) -> CompileResult:
    """Refuse a file that its runtime does not compute, and see whether the agreement asked for was reached."""
    if failures := report.validation.failures:
        raise ValidationError(f"{report.emitted} was written, but must not be used: {'; '.join(failures)}")
    missed = is_missed(report, min_agreement)
    kept = make_plan_file(plan, report.sha256["model"])
    return CompileResult(path=report.emitted, report=report, synthetic=synthetic, gate_missed=missed, plan=kept)
