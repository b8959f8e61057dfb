"""What came of a comparison: one row per quantized file of the same float model, as frozen values and as JSON."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedModel:
    """One file, and what it does beside the others; a figure is None where it was not, or cannot be, measured.

    Attributes:
        name: who made it, and how.
        calibrated_on: what activation ranges were read off: ``none`` for the float model, the user's ``real`` data,
            our ``synthetic`` data, ``random`` numbers, or ``unknown`` for a file that was given.
        path: the file; None where it was not kept.
        seconds: what making it takes by itself, data included.
        bytes: size on disk, external weights included.
        top1: share of right decisions, 0 to 1.
        agreement: share of decisions that are the float model's, 0 to 1.
        sqnr_db: output signal to quantization noise ratio in dB, of the worst float output; inf for equal outputs.
        fused: layers with weights that the runtime runs in integers, or on weights in blocks.
        layers: all layers with weights, as the runtime's optimiser left them.
        latency: at the smallest batch, in turns with all others.
        agreement_estimate: estimated agreement on real data, from synthetic images alone.
        failure: why there is no file, or why it cannot be used; None where all is well.

    """

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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Comparison:
    """All rows, and what is to be known of how they came about.

    Attributes:
        model: the float model.
        rows: the float model first, then ours, then onnxruntime's by calibration data, then files that were given.
        judged_on: the samples behind ``top1``, ``agreement`` and ``sqnr_db``, in words.
        judged_on_real: they are the user's, not made up.
        samples: how many they are.
        calibration: what onnxruntime was calibrated on, in words, by DataSource.
        contract: numbers that the network was taken to expect, as plain values; None when its input is no image.
        notes: what the reader should know, in words.
        held_out_agreement: share of decisions of ours that are the float model's on the synthetic samples held out;
            None where no output decides, or where ours failed.
        agreement_estimate: estimated agreement of ours on real data; None where ours failed.
        expected_agreement: what ``min_agreement`` is held against: that estimate, or without it the share held out.
        gate_missed: ``min_agreement`` was asked for, and ours stays below it.
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
    gate_missed: bool
    settings: Mapping[str, Any]
    seed: int
    sha256: str
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    @property
    def float_row(self) -> ComparedModel:
        """The float model's own row."""
        return self.rows[0]

    def row(self, name: str, calibrated_on: DataSource | None = None) -> ComparedModel:
        """Return the first row of that name, calibrated on that data where it is given. KeyError when none is."""
        for row in self.rows:
            if row.name == name and calibrated_on in (None, row.calibrated_on):
                return row
        raise KeyError(f"no row {name!r} calibrated on {calibrated_on or 'anything'}")

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
        told = {entry.name: plain(getattr(self, entry.name)) for entry in dataclasses.fields(self)}
        told["rows"] = [
            {**plain(row), "size_ratio": self.size_ratio(row), "speedup": self.speedup(row)} for row in self.rows
        ]
        return told
