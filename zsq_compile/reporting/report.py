"""Everything a compilation knows about itself, as one frozen value, as JSON and as plain text."""

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from passes.analysis.count_bytes import Contents
from passes.plan import Refusal
from zsq_compile.config.units import size_words
from zsq_compile.quantization.layer_metrics.layer_quality import LayerQuality, worst_layers
from zsq_compile.reporting.evidence import MomentMatch, Picture
from zsq_compile.reporting.plain import plain
from zsq_compile.verification.agreement_estimate import AgreementEstimate
from zsq_compile.verification.validate import Validation

_PACKAGES = ("zsq-compile", "onnx", "onnx-ir", "onnxsim", "onnxruntime", "onnxruntime-gpu", "torch", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Report:
    """The evidence of one compilation.

    Attributes:
        model: the user's file.
        emitted: the quantized file.
        settings: the configuration, as nested plain values.
        seed: seed of all randomness.
        stages: seconds by stage, in order.
        coverage: what batch normalisation the model had, in words.
        statistics: where the statistics come from ("source"), with a line per layer that was found in a file or not
            ("matched", "unmatched"), as plain values; None where nobody asked.
        contract: numbers that the network was taken to expect, as plain values; None when its input is no image.
        data: where the calibration data came from, in words.
        refusals: nodes and values that were left in float, with reasons.
        notes: what the user should know, in words.
        validation: float against quantized model in the runtime.
        learning: what became of each block that was learned, as plain values; empty where nothing was.
        synthesis: how the data were made, as plain values ("algorithm", "samples", and "loss_curve" by iteration);
            None where they were given.
        moments: how near the calibration data come to the statistics, by layer.
        pictures: synthetic images to be shown; empty where nobody asked. JSON has what was seen in them, and no pixels.
        contents: where the bytes are, by file ("float", "quantized").
        distillation: what became of training the whole network, as plain values; a line of it stands under "summary".
            None where that was not asked for.
        layers: float against quantized model layer by layer, in the simulation, in graph order.
        mixed: how widths were chosen for every layer, as plain values; two lines of it stand under "summary". None when
            they were not.
        baseline: onnxruntime's own quantizer on the same model, as plain values; None when it was not asked for.
        speed_trials: other forms of the file that were timed because it was slower than float, as plain values, the one
            that took its place ``chosen``; empty where there was no reason to.
        agreement_estimate: estimated agreement on real data, with an interval; None when it was not estimated.
        versions: of Python and of the packages, see installed_versions.
        sha256: of the files, by role ("model", "emitted").

    """

    model: Path
    emitted: Path
    settings: Mapping[str, Any]
    seed: int
    stages: Mapping[str, float]
    coverage: str
    contract: Mapping[str, Any] | None
    data: str
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
    validation: Validation
    learning: tuple[Mapping[str, Any], ...] = ()
    synthesis: Mapping[str, Any] | None = None
    moments: tuple[MomentMatch, ...] = ()
    pictures: tuple[Picture, ...] = ()
    contents: Mapping[str, Contents] = field(default_factory=dict)
    distillation: Mapping[str, Any] | None = None
    statistics: Mapping[str, Any] | None = None
    layers: tuple[LayerQuality, ...] = ()
    mixed: Mapping[str, Any] | None = None
    baseline: Mapping[str, Any] | None = None
    speed_trials: tuple[Mapping[str, Any], ...] = ()
    agreement_estimate: AgreementEstimate | None = None
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    sha256: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that json.dumps takes as they are; a number that JSON lacks (inf, nan) becomes None."""
        told = {entry.name: plain(getattr(self, entry.name)) for entry in dataclasses.fields(self)}
        validation = self.validation
        told["validation"] |= {
            "agreement": plain(validation.agreement),
            "sqnr_db": plain(validation.sqnr_db),
            "speedup": plain(validation.speedup),
        }
        for picture in told["pictures"]:
            del picture["png"]
        told["worst_layers"] = plain(worst_layers(self.layers))
        return told

    @property
    def expected_agreement(self) -> float | None:
        """Share of common decisions: as estimated for real data, or counted on held-out samples without an estimate."""
        if self.agreement_estimate is None or self.agreement_estimate.estimate is None:
            return self.validation.agreement
        return self.agreement_estimate.estimate

    def summary(self) -> str:
        """Return a few plain lines for a terminal or a log."""
        validation = self.validation
        shrunk = validation.quantized_bytes / max(validation.float_bytes, 1)
        lines = [
            f"{self.model} -> {self.emitted}",
            f"size        {size_words(validation.float_bytes)} -> {size_words(validation.quantized_bytes)} "
            f"({shrunk:.2f} of it)",
            f"statistics  {self._statistics_words()}",
            f"data        {self.data}",
            f"layers      {_layers(validation)}",
        ]
        lines.extend(f"widths      {line}" for line in (self.mixed or {}).get("summary", ()))
        if self.distillation is not None:
            lines.append(f"distilled   {self.distillation['summary']}")
        lines.extend(_quality_lines(validation))
        if self.agreement_estimate is not None:
            estimate = self.agreement_estimate
            lines.append(f"real data   estimated agreement: {estimate.describe()}, {estimate.calibration}")
        if validation.latency:
            before, after = (validation.latency[name].median_ms for name in ("float", "quantized"))
            lines.append(f"latency     {before:.3g} ms -> {after:.3g} ms ({before / after:.2f} times as fast)")
        lines.append(f"time        {sum(self.stages.values()):.1f} s")
        lines.extend(
            f"refused     {refusal.where} ({refusal.op_type}): {refusal.reason}" for refusal in self.refusals[:5]
        )
        if len(self.refusals) > 5:
            lines.append(f"refused     {len(self.refusals) - 5} more, see the JSON report")
        lines.extend(f"worst       {layer.words()}" for layer in worst_layers(self.layers))
        lines.extend(f"note        {text}" for text in (*self.notes, *validation.warnings))
        lines.extend(f"FAILED      {text}" for text in validation.failures)
        return "\n".join(lines)

    def _statistics_words(self) -> str:
        return self.coverage if self.statistics is None else f"{self.statistics['source']}; {self.coverage}"


def installed_versions() -> dict[str, str]:
    """Versions of Python, the machine's architecture and the packages that a result depends on."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not installed as a package: onnxruntime-gpu beside onnxruntime, or a source tree
            continue
    return found


def _layers(validation: Validation) -> str:
    fusion = validation.fusion
    parts = [f"{fusion.fused} in integers"]
    if fusion.blockwise:
        parts.append(f"{len(fusion.blockwise)} on 4-bit weights in blocks")
    if fusion.unfused:
        parts.append(f"{len(fusion.unfused)} quantized but run in float")
    if fusion.left_float:
        parts.append(f"{len(fusion.left_float)} left in float")
    return ", ".join(parts)


def _quality_lines(validation: Validation) -> list[str]:
    lines = []
    for output in validation.outputs:
        parts = [] if output.sqnr_db is None else [f"SQNR {output.sqnr_db:.1f} dB"]
        parts += [] if output.agreement is None else [f"{output.agreement:.2%} of the decisions unchanged"]
        lines.append(f"held out    {output.name}: {', '.join(parts)} on {validation.samples} samples")
    real = validation.labelled
    if real is not None:
        scores = ""
        if real.top1_float is not None and real.top1_quantized is not None:
            scores = f"top-1 {real.top1_float:.2%} -> {real.top1_quantized:.2%}, "
        lines.append(f"your data   {scores}{real.agreement:.2%} of the decisions unchanged on {real.samples} samples")
    if validation.simulation is not None:
        match = validation.simulation
        lines.append(
            f"simulation  {match.share_beyond_step:.2%} of the elements differ by more than a step, "
            f"{match.agreement:.2%} of the decisions are common"
        )
    return lines
