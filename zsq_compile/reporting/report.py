"""The report of a compilation: a frozen value, as JSON and as text."""

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from passes.analysis.count_bytes import Contents
from passes.plan import Refusal
from zsq_compile.quantization.layer_metrics.layer_quality import LayerQuality, worst_layers
from zsq_compile.reporting.alarms import Alarm
from zsq_compile.reporting.evidence import MomentMatch, Picture
from zsq_compile.reporting.facts import MISSING, calibration_facts, comparison_rows, remarks, validation_facts
from zsq_compile.reporting.plain import plain
from zsq_compile.reporting.task_rows import explain_quality, explain_task
from zsq_compile.verification.agreement_estimate import AgreementEstimate
from zsq_compile.verification.validate import Validation

_PACKAGES = ("zsq-compile", "onnx", "onnx-ir", "onnxsim", "onnxruntime", "onnxruntime-gpu", "torch", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Report:
    """Everything that is known of one compilation.

    Attributes:
        model: the user's file.
        emitted: the quantized file.
        settings: the configuration, as nested plain values.
        seed: seed of all randomness.
        stages: seconds by stage, in order.
        coverage: how many layers have batch normalisation statistics.
        statistics: where they come from ("source"), with a line per layer that was found in a file or not ("matched",
            "unmatched"), as plain values.
        inputs: what each takes and why, as plain values ("name", "kind", "reason").
        contract: preprocessing of the first image input, or of the first signal where there is none, as plain values;
            None where nothing tells it.
        data: description of the calibration data.
        refusals: nodes and values that were left in float, with reasons.
        notes: for the user.
        validation: float against quantized model in the runtime.
        alarms: what puts the whole result in doubt, whatever the figures say.
        learning: outcome of reconstruction for each block, as plain values.
        synthesis: how the data were made, as plain values ("algorithm", "samples", and "loss_curve" by iteration);
            None where they were given.
        moments: calibration data against batch normalisation statistics, by layer.
        pictures: synthetic images; empty where nobody asked. JSON has the classes seen in them, and no pixels.
        contents: bytes by kind, by file ("float", "quantized").
        distillation: outcome of distillation, as plain values, with a line under "summary"; None without it.
        layers: float against quantized model layer by layer, in the simulation, in graph order.
        mixed: how bits were chosen for every layer, as plain values, with two lines under "summary"; None where they
            were not.
        placement: what was left in float because of its noise, as plain values, with a line under "summary"; None where
            nothing was.
        speed_trials: other forms of the file that were timed because it was slower than float, as plain values, the one
            that took its place ``chosen``.
        agreement_estimate: estimated agreement on real data, with an interval; None when it was not estimated.
        task: what the network is for, as plain values ("kind", "reason", "asked", "threshold", and "outputs" with
            "name", "role" and "reason"); None where nobody has looked.
        metric: what the user's command said, as plain values ("command", "float", "quantized", "kept", "runs"); None
            without one.
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
    alarms: tuple[Alarm, ...] = ()
    inputs: tuple[Mapping[str, str], ...] = ()
    learning: tuple[Mapping[str, Any], ...] = ()
    synthesis: Mapping[str, Any] | None = None
    moments: tuple[MomentMatch, ...] = ()
    pictures: tuple[Picture, ...] = ()
    contents: Mapping[str, Contents] = field(default_factory=dict)
    distillation: Mapping[str, Any] | None = None
    statistics: Mapping[str, Any] | None = None
    layers: tuple[LayerQuality, ...] = ()
    mixed: Mapping[str, Any] | None = None
    placement: Mapping[str, Any] | None = None
    speed_trials: tuple[Mapping[str, Any], ...] = ()
    agreement_estimate: AgreementEstimate | None = None
    task: Mapping[str, Any] | None = None
    metric: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    sha256: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that json.dumps takes as they are; a number that JSON lacks (inf, nan) becomes None."""
        values = {entry.name: plain(getattr(self, entry.name)) for entry in dataclasses.fields(self)}
        validation = self.validation
        values["validation"] |= {
            "agreement": plain(validation.agreement),
            "sqnr_db": plain(validation.sqnr_db),
            "speedup": plain(validation.speedup),
            "task": None if validation.task is None else plain(explain_task(validation.task)),
        }
        if validation.labelled is not None:
            values["validation"]["labelled"]["quality"] = plain(explain_quality(validation.labelled.quality))
        for picture in values["pictures"]:
            del picture["png"]
        values["worst_layers"] = plain(worst_layers(self.layers))
        return values

    @property
    def expected_agreement(self) -> float | None:
        """Share of what the float network says that is kept: estimated for real data, else counted on held-out samples.

        Equal decisions of a classifier, matched boxes of a detector, equal texts; None where it is no share.
        """
        if self.agreement_estimate is None or self.agreement_estimate.estimate is None:
            return self.validation.share
        return self.agreement_estimate.estimate

    @property
    def held_agreement(self) -> float | None:
        """What a gate is held against: ``expected_agreement``, or its lower end where nothing proves the input.

        Without an estimate that is the lowest count over the plausible preprocessings.
        """
        estimate, worst = self.agreement_estimate, self.validation.worst_share
        if estimate is not None and estimate.held is not None:
            return estimate.held
        return self.expected_agreement if worst is None else worst

    def summary(self) -> str:
        """Return the most important figures as lines of text."""
        validation = self.validation
        rows = [
            (what, after if before == MISSING else f"{before} -> {after}")
            for what, before, after in comparison_rows(validation)
        ]
        facts = [*rows, *validation_facts(validation), *calibration_facts(self), *remarks(self)]
        facts.append(("time", f"{sum(self.stages.values()):.1f} s"))
        facts += [("note", text) for text in self.notes]
        facts += [("FAILED", text) for text in validation.failures]
        alarms = [f"{one.degree.upper()}: {one.describe()}" for one in self.alarms]
        return "\n".join([f"{self.model} -> {self.emitted}", *alarms, *(f"{what}: {text}" for what, text in facts)])


def installed_versions() -> dict[str, str]:
    """Versions of Python, of the machine's architecture and of the packages that a result depends on."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not installed as a package: onnxruntime-gpu beside onnxruntime, or a source tree
            continue
    return found
