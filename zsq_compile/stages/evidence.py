"""The report of a compilation, and what is looked up for it in the calibration data."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir
import torch

from passes.analysis.count_bytes import Contents, count_bytes
from passes.plan import QuantizationPlan
from zsq_compile.config.compile import CompileConfig
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.files import file_sha256
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Clock
from zsq_compile.quantization.distillation.distill import Distill
from zsq_compile.quantization.mixed_precision.search import ChooseBits, explain_choice
from zsq_compile.quantization.placement.leave_float import LeaveFloat, explain_floats
from zsq_compile.quantization.reconstruction.reconstruct import Reconstruct
from zsq_compile.quantization.samples import count_fitting_samples
from zsq_compile.quantization.state import FloatNetwork
from zsq_compile.reporting.alarms import Alarm
from zsq_compile.reporting.evidence import MomentMatch, Picture
from zsq_compile.reporting.gallery import as_image
from zsq_compile.reporting.report import Report
from zsq_compile.stages.alarms import find_alarms
from zsq_compile.stages.calibration_data import CalibrationData, first_image, has_large_images
from zsq_compile.stages.export import Exported
from zsq_compile.stages.gallery import classify
from zsq_compile.stages.quantize import Quantized
from zsq_compile.stages.user_metric import UserJudge
from zsq_compile.synthesis.channel_moments import ActivationMoments
from zsq_compile.synthesis.losses import wasserstein
from zsq_compile.synthesis.probe import layer_targets, measure_moments
from zsq_compile.tasks.task import Task
from zsq_compile.verification.agreement_estimate import AgreementEstimate

_SAMPLES = 64
_PICTURES, _LARGEST_SIDE = 24, 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known of a compilation beside its stages.

    Attributes:
        estimate: of the agreement on real data.
        alarms: what puts the whole result in doubt.
        moments: how near the calibration samples come to the statistics, by layer.
        pictures: some of the synthetic images; empty where nobody asked.
        contents: where the bytes are, by file ("float", "quantized").
        task: what the network is for; None where nobody has looked.
        metric: what the user's command said, as plain values; None without one.

    """

    estimate: AgreementEstimate
    alarms: tuple[Alarm, ...]
    moments: tuple[MomentMatch, ...]
    pictures: tuple[Picture, ...]
    contents: Mapping[str, Contents]
    task: Task | None = None
    metric: Mapping[str, Any] | None = None


def gather_evidence(
    loaded: LoadedModel,
    data: CalibrationData,
    network: FloatNetwork,
    plan: QuantizationPlan,
    exported: Exported,
    estimate: AgreementEstimate,
    *,
    pictures_wanted: bool,
    judge: UserJudge | None = None,
) -> Evidence:
    """Look at the calibration data once more, with the float network on its device, and into both files."""
    teacher = TorchGraph(loaded.model, device=network.device)
    moments = match_moments(teacher, data, loaded.inputs)
    alarms = find_alarms(loaded.inputs, data, moments, network, plan)
    if judge is not None:
        judge.kept_by("the result", exported.path)
    return Evidence(
        task=network.task,
        metric=None if judge is None else judge.plain(),
        estimate=estimate,
        alarms=alarms,
        moments=moments,
        pictures=draw_pictures(teacher, data, loaded.inputs) if pictures_wanted else (),
        contents={
            "float": count_bytes(ir.from_proto(loaded.original), exported.validation.float_bytes),
            "quantized": count_bytes(ir.load(exported.path), exported.validation.quantized_bytes),
        },
    )


def build_report(
    config: CompileConfig,
    loaded: LoadedModel,
    data: CalibrationData,
    quantized: Quantized,
    exported: Exported,
    evidence: Evidence,
    clock: Clock,
) -> Report:
    """Put together what the stages have left."""
    made, records = data.synthetic, quantized.records
    distillation, choice, left = (records.get(step.name) for step in (Distill, ChooseBits, LeaveFloat))
    statistics, plan = data.known.statistics, quantized.state.plan
    synthesis = None
    if made is not None:
        count = len(next(iter(made.inputs.values())))
        synthesis = {"algorithm": made.algorithm, "samples": count, "loss_curve": made.loss_curve}
    return Report(
        model=loaded.path,
        emitted=exported.path,
        settings=asdict(config),
        seed=config.seed,
        stages=dict(clock.seconds),
        coverage=statistics.coverage(),
        statistics=data.known.plain(),
        inputs=tuple({"name": one.name, "kind": one.kind, "reason": one.reason} for one in loaded.inputs),
        contract=data.plain_preprocessing(),
        data=data.description,
        refusals=(*statistics.refusals, *plan.refusals),
        notes=tuple(clock.progress.texts),
        validation=exported.validation,
        learning=tuple(asdict(block) for block in records.get(Reconstruct.name, ())),
        synthesis=synthesis,
        alarms=evidence.alarms,
        moments=evidence.moments,
        pictures=evidence.pictures,
        contents=evidence.contents,
        task=None if evidence.task is None else _explain(evidence.task),
        metric=evidence.metric,
        distillation=None if distillation is None else {**asdict(distillation), "summary": distillation.words()},
        layers=quantized.layers,
        mixed=None if choice is None else explain_choice(choice),
        placement=None if left is None else explain_floats(left),
        speed_trials=tuple(asdict(trial) for trial in exported.trials),
        agreement_estimate=evidence.estimate,
        sha256={"model": file_sha256(loaded.path), "emitted": file_sha256(exported.path)},
    )


def _explain(task: Task) -> dict[str, Any]:
    """Tell what a network is for in plain values."""
    outputs = [{"name": one.name, "role": one.role, "reason": one.reason} for one in task.outputs]
    return {
        "kind": task.kind,
        "reason": task.reason,
        "asked": task.asked,
        "threshold": task.threshold,
        "outputs": outputs,
    }


def match_moments(teacher: TorchGraph, data: CalibrationData, inputs: Sequence[InputSpec]) -> tuple[MomentMatch, ...]:
    """Compare the calibration samples with the usable statistics, layer by layer, in the network that has the layers.

    At most 64 samples take part, a quarter of that of large images.
    """
    layers = data.known.statistics.usable
    if not layers:
        return ()
    batch = fixed_batch(inputs) or min(count_fitting_samples(teacher.model), 16)
    count = max(_SAMPLES // 4 if has_large_images(inputs) else _SAMPLES, batch) // batch * batch
    first = {name: value[:count].to(teacher.device) for name, value in data.calibration.inputs.items()}
    measured = measure_moments(teacher, layers, first, batch)
    targets = layer_targets(layers, teacher.device)
    found = []
    for layer, one, wanted in zip(layers, measured, targets, strict=True):
        deviation = wanted.variance.clamp_min(1e-12).sqrt()
        found.append(
            MomentMatch(
                node=layer.node,
                layer=layer.layer,
                channels=len(wanted.mean),
                distance=_mean(wasserstein(one, wanted)),
                mean_gap=_mean(((one.mean - wanted.mean) / deviation).square()) ** 0.5,
                deviation_ratio=_ratio(one, deviation),
            )
        )
    return tuple(found)


def _mean(values: torch.Tensor) -> float:
    return float(values.mean()) if values.numel() else 0.0


def _ratio(measured: ActivationMoments, deviation: torch.Tensor) -> float:
    ratios = measured.variance.clamp_min(0.0).sqrt() / deviation
    return float(ratios.median()) if ratios.numel() else 1.0


def draw_pictures(teacher: TorchGraph, data: CalibrationData, inputs: Sequence[InputSpec]) -> tuple[Picture, ...]:
    """Show the first synthetic images at no more than 96 pixels a side, with what the float network sees in them.

    Nothing where the data were given by the user, or where the network takes no image.
    """
    made, spec = data.synthetic, first_image(inputs)
    if made is None or spec is None or spec.name not in made.preprocessing:
        return ()
    count = min(_PICTURES, len(made.inputs[spec.name]))
    pixels = made.decode(spec.name, count).numpy()
    seen = classify(teacher, inputs, made, count)
    pictures = []
    for number, one in enumerate(pixels):
        stream = io.BytesIO()
        as_image(one, longest=_LARGEST_SIDE).save(stream, format="PNG", optimize=True)
        label, confidence = (None, None) if seen is None else seen[number]
        asked = None if made.labels is None else int(made.labels[number])
        pictures.append(Picture(png=stream.getvalue(), label=label, confidence=confidence, asked=asked))
    return tuple(pictures)
