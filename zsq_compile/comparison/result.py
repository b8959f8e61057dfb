"""Result of a comparison: one row per quantized file of the same float model."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zsq_compile.reporting.plain import plain
from zsq_compile.reporting.report import installed_versions
from zsq_compile.verification.agreement_estimate import AgreementEstimate
from zsq_compile.verification.latency import Latency

DataSource = Literal["none", "real", "synthetic", "random", "unknown"]
RowKind = Literal["float", "ours", "onnxruntime", "given"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedModel:
    """One file and its figures; a figure is None where it was not, or cannot be, measured.

    Attributes:
        kind: the float model, the file of this compiler, one of onnxruntime's quantizer, or one of the user.
        name: settings of onnxruntime's quantizer, or name of the user's file; else the kind.
        calibrated_on: data that activation ranges come from: ``none`` for the float model, ``real`` data of the user,
            ``synthetic`` data, ``random`` numbers, or ``unknown`` for a file of the user.
        path: the file; None where it was not kept.
        seconds: time to make this file alone, synthesis of its data included.
        bytes: size on disk, external weights included.
        top1: share of right decisions, 0 to 1.
        agreement: share of decisions that are the float model's, 0 to 1.
        sqnr_db: in dB, of the worst float output; inf for equal outputs.
        fused: layers with weights that the runtime runs in integers, or on weights in blocks.
        layers: all layers with weights in the graph as the runtime optimised it.
        latency: at the smallest batch, measured in turns with all others.
        agreement_estimate: estimated agreement on real data, from synthetic images alone.
        failure: why there is no file, or why it cannot be used; None without a failure.

    """

    kind: RowKind
    name: str
    calibrated_on: DataSource
    path: Path | None = None
    seconds: float | None = None
    bytes: int | None = None
    top1: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    fused: int | None = None
    layers: int | None = None
    latency: Latency | None = None
    agreement_estimate: AgreementEstimate | None = None
    failure: str | None = None

    @property
    def title(self) -> str:
        """Name that is clear outside of the table."""
        return f"onnxruntime {self.name}" if self.kind == "onnxruntime" else self.name


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Comparison:
    """All rows, and how they were made and measured.

    Attributes:
        model: the float model.
        rows: the float model first, then ours, then onnxruntime's by calibration data, then files of the user.
        judged_on: description of the samples behind ``top1``, ``agreement`` and ``sqnr_db``.
        judged_on_real: they are the user's, not synthetic.
        samples: how many they are.
        calibration: description of onnxruntime's calibration data, by DataSource.
        contract: preprocessing of the first image input, as plain values; None without one.
        notes: for the user.
        held_out_agreement: share of decisions of ours that are the float model's on the held-out synthetic samples;
            None where no output holds decisions, or where ours failed.
        agreement_estimate: estimated agreement of ours on real data; None where ours failed.
        expected_agreement: ``agreement_estimate.estimate``, or without it ``held_out_agreement``.
        settings: the configuration, as nested plain values.
        seed: seed of all randomness.
        sha256: of the float model.
        versions: of Python and of the packages.

    """

    model: Path
    rows: tuple[ComparedModel, ...]
    judged_on: str
    judged_on_real: bool
    samples: int
    calibration: Mapping[str, str]
    contract: Mapping[str, Any] | None
    notes: tuple[str, ...]
    held_out_agreement: float | None
    agreement_estimate: AgreementEstimate | None
    expected_agreement: float | None
    settings: Mapping[str, Any]
    seed: int
    sha256: str
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    @property
    def gate_missed(self) -> bool:
        """Ours is below the ``min_agreement`` that was asked for."""
        least = self.settings["min_agreement"]
        return least is not None and (self.held_agreement or 0.0) < least

    @property
    def held_agreement(self) -> float | None:
        """What a gate is held against: ``expected_agreement``, or its lower end where nothing proves the input."""
        estimate = self.agreement_estimate
        return self.expected_agreement if estimate is None or estimate.held is None else estimate.held

    @property
    def float_row(self) -> ComparedModel:
        """The float model's own row."""
        return self.rows[0]

    def row(self, title: str, calibrated_on: DataSource | None = None) -> ComparedModel:
        """Return the first row of that title, calibrated on that data where it is given. KeyError when none is."""
        for row in self.rows:
            if row.title == title and calibrated_on in (None, row.calibrated_on):
                return row
        raise KeyError(f"no row {title!r} calibrated on {calibrated_on or 'anything'}")

    def size_ratio(self, row: ComparedModel) -> float | None:
        """Size of a row's file over that of the float file."""
        whole = self.float_row.bytes
        return None if row.bytes is None or not whole else row.bytes / whole

    def speedup(self, row: ComparedModel) -> float | None:
        """Median latency of the float model over that of a row."""
        if row.latency is None or self.float_row.latency is None:
            return None
        return self.float_row.latency.median_ms / row.latency.median_ms

    def to_json(self) -> dict[str, Any]:
        """Return plain values that json.dumps takes as they are; a number that JSON lacks (inf, nan) becomes None."""
        values = {entry.name: plain(getattr(self, entry.name)) for entry in dataclasses.fields(self)}
        values["gate_missed"] = self.gate_missed
        values["rows"] = [
            {**plain(row), "size_ratio": self.size_ratio(row), "speedup": self.speedup(row)} for row in self.rows
        ]
        return values
