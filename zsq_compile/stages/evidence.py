"""Look at the calibration data once more: moments per layer, and pictures of them. Runs the float network."""

import io
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import torch

from passes.analysis.count_bytes import count_bytes
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from zsq_compile.data.input_spec import InputSpec, fixed_batch
from zsq_compile.differentiable.class_scores import class_probabilities, find_scores
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Clock
from zsq_compile.reporting.evidence import MomentMatch, Picture
from zsq_compile.reporting.gallery import as_image
from zsq_compile.reporting.report import Report
from zsq_compile.stages.calibration_data import CalibrationData, feeds
from zsq_compile.synthesis.losses import Moments, wasserstein
from zsq_compile.synthesis.probe import layer_targets, measure_moments

_SAMPLES = 64
_PICTURES, _LARGEST_SIDE = 24, 96
_LARGE_IMAGE = 64 * 64


def with_evidence(
    report: Report,
    loaded: LoadedModel,
    statistics: BatchNormStatistics,
    samples: CalibrationData,
    device: torch.device,
    clock: Clock,
    *,
    pictures_wanted: bool,
) -> Report:
    """Add to a report what is seen by looking back at the data and at the files.

    Args:
        report: of the compilation, without that.
        loaded: the float model.
        statistics: of it, possibly none.
        samples: that it was calibrated on.
        device: where the float network runs.
        clock: times and shows it.
        pictures_wanted: add some of the synthetic images.

    """
    with clock.stage("look back"):
        teacher, made = TorchGraph(loaded.model, device=device), samples.synthetic
        synthesis = None
        if made is not None:
            count = len(next(iter(made.inputs.values())))
            synthesis = {"algorithm": made.algorithm, "samples": count, "loss_curve": made.loss_curve}
        return replace(
            report,
            synthesis=synthesis,
            moments=moment_matches(teacher, statistics, samples, loaded.inputs),
            pictures=pictures_of(teacher, samples, loaded.inputs) if pictures_wanted else (),
            contents={
                "float": count_bytes(ir.from_proto(loaded.original), report.validation.float_bytes),
                "quantized": count_bytes(ir.load(report.emitted), report.validation.quantized_bytes),
            },
        )


def moment_matches(
    teacher: TorchGraph, statistics: BatchNormStatistics, samples: CalibrationData, inputs: Sequence[InputSpec]
) -> tuple[MomentMatch, ...]:
    """Compare the calibration samples with the usable statistics, layer by layer.

    At most 64 samples take part, a quarter of that of large images.
    """
    layers = statistics.usable
    if not layers:
        return ()
    image = next((spec for spec in inputs if spec.is_image), None)
    is_large = image is not None and int(image.shape[2] or 1) * int(image.shape[3] or 1) > _LARGE_IMAGE
    batch = fixed_batch(inputs) or 16
    count = max(_SAMPLES // 4 if is_large else _SAMPLES, batch) // batch * batch
    first = {name: value[:count].to(teacher.device) for name, value in samples.calibration.items()}
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


def _ratio(measured: Moments, deviation: torch.Tensor) -> float:
    ratios = measured.variance.clamp_min(0.0).sqrt() / deviation
    return float(ratios.median()) if ratios.numel() else 1.0


def pictures_of(teacher: TorchGraph, samples: CalibrationData, inputs: Sequence[InputSpec]) -> tuple[Picture, ...]:
    """Show the first synthetic images at no more than 96 pixels a side, with what the float network sees in them.

    Nothing where the data were given by the user, or where the network takes no image.
    """
    made, spec = samples.synthetic, next((spec for spec in inputs if spec.is_image), None)
    if made is None or spec is None or spec.name not in made.contracts:
        return ()
    count = min(_PICTURES, len(made.inputs[spec.name]))
    pixels = made.contracts[spec.name].decode(made.inputs[spec.name][:count]).numpy()
    seen = _seen(teacher, {name: value[: _whole(count, inputs)] for name, value in made.inputs.items()}, inputs)
    pictures = []
    for number, one in enumerate(pixels):
        stream = io.BytesIO()
        as_image(one, longest=_LARGEST_SIDE).save(stream, format="PNG", optimize=True)
        label, confidence = (None, None) if seen is None else seen[number]
        asked = None if made.labels is None else int(made.labels[number])
        pictures.append(Picture(png=stream.getvalue(), label=label, confidence=confidence, asked=asked))
    return tuple(pictures)


def _whole(count: int, inputs: Sequence[InputSpec]) -> int:
    fixed = fixed_batch(inputs) or 1
    return -(-count // fixed) * fixed


def _seen(
    teacher: TorchGraph, samples: dict[str, torch.Tensor], inputs: Sequence[InputSpec]
) -> list[tuple[int, float]] | None:
    """Class and its probability for every sample; None where no output looks like class scores."""
    rows = []
    for feed in feeds(samples, inputs):
        with torch.inference_mode():
            outputs = teacher.run({name: value.to(teacher.device) for name, value in feed.items()})
        found = find_scores(outputs)
        if found is None:
            return None
        rows.append(class_probabilities(outputs[found[0]]).cpu())
    best = torch.cat(rows).max(1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
