"""Measure the rows of a comparison. A file that fails keeps its row, with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from backends.session import RuntimeModelError, Session, open_session
from zsq_compile.comparison.result import ComparedModel
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ConfigError
from zsq_compile.files import file_bytes
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Progress
from zsq_compile.stages.estimate_agreement import EstimateInputs
from zsq_compile.verification.agreement_estimate import AgreementEstimate
from zsq_compile.verification.fusion import Fusion, inspect_fusion
from zsq_compile.verification.latency import Latency, measure_latency
from zsq_compile.verification.measure_families import compare_families, run_families
from zsq_compile.verification.running import first_sample, fitting_batch
from zsq_compile.verification.side_by_side import Quality, SideBySide, run_side_by_side

_SECONDS_EACH = 0.7  # of latency, on the average of the models


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judge:
    """What all rows are measured with.

    Attributes:
        loaded: the float model.
        file: its path.
        data: samples, with labels or without.
        sample: inputs of which the smallest batch is timed.
        providers: execution providers of the target.
        estimate_inputs: what the agreement on real data is estimated with.

    """

    loaded: LoadedModel
    file: Path
    data: Dataset
    sample: Mapping[str, NDArray[Any]]
    providers: Sequence[str]
    estimate_inputs: EstimateInputs


def measure_rows(judge: Judge, rows: Sequence[ComparedModel], progress: Progress) -> tuple[ComparedModel, ...]:
    """Measure the float model and all rows that have a file: quality, size, fusion, and latency in turns.

    Args:
        judge: the float model and the data.
        rows: those with a ``failure`` stay as they are.
        progress: receives the stages.

    Returns:
        The float model's row, then those given, in their order.

    Raises:
        ConfigError: the data do not fit the float model.
        RuntimeModelError: the float model failed.

    """
    reference = open_session(judge.loaded.original, providers=judge.providers)
    sessions, failures = _open(rows, judge.providers)
    axes = judge.loaded.face.axes
    with progress.stage("measure accuracy", total=len(judge.data)) as advance:
        uneven = judge.loaded.uneven_outputs
        results = run_side_by_side(reference, sessions, judge.data, advance, axes=axes, uneven=uneven)
    failures |= results.failures
    sound = {key: session for key, session in sessions.items() if key in results.qualities}
    with progress.stage("estimate agreement on real data"):
        estimates = _estimates(judge, reference, sound, rows)
    feeds = first_sample(reference, judge.sample, axes)
    models: dict[str, onnx.ModelProto | Path] = {"float": judge.loaded.original}
    models |= {key: rows[int(key)].path or Path() for key, session in sound.items() if _runs(session, feeds)}
    with progress.stage("measure latency"):
        times = measure_latency(models, feeds, seconds=_SECONDS_EACH * len(models), providers=judge.providers)
    whole = ComparedModel(kind="float", name="float", calibrated_on="none", path=judge.file)
    measured = [_with_figures(whole, "float", results, times, judge.providers)]
    for key, row in ((str(index), row) for index, row in enumerate(rows)):
        if key in sound:
            row = replace(row, agreement_estimate=estimates.get(key))
            measured.append(_with_figures(row, key, results, times, judge.providers))
        else:
            measured.append(row if row.failure else replace(row, failure=failures[key].splitlines()[0]))
    return tuple(measured)


def _open(rows: Sequence[ComparedModel], providers: Sequence[str]) -> tuple[dict[str, Session], dict[str, str]]:
    """Open the files of rows without a failure: sessions and new failures by number of the row."""
    sessions: dict[str, Session] = {}
    failures: dict[str, str] = {}
    for index, row in enumerate(rows):
        if row.failure is None and row.path is not None:
            try:
                sessions[str(index)] = open_session(row.path, providers=providers)
            except RuntimeModelError as error:
                failures[str(index)] = first_line(error)
    return sessions, failures


def _estimates(
    judge: Judge, reference: Session, sessions: Mapping[str, Session], rows: Sequence[ComparedModel]
) -> dict[str, AgreementEstimate]:
    """Estimate the agreement of every file on real data; one that does not run on the families has none."""
    samples, batch = judge.estimate_inputs.samples, fitting_batch(reference)
    axes, uneven = judge.loaded.face.axes, judge.loaded.uneven_outputs
    run = partial(run_families, families=samples, batch=batch, axes=axes, uneven=uneven)
    wanted = run(reference)
    found = {}
    for key, session in sessions.items():
        try:
            got = run(session)
        except (RuntimeModelError, ConfigError):
            continue
        if all(got[name][out].shape == array.shape for name, whole in wanted.items() for out, array in whole.items()):
            calibration = f"calibrated on {rows[int(key)].calibrated_on} data"
            found[key] = judge.estimate_inputs.estimate(
                compare_families(wanted, got, judge.estimate_inputs.task), calibration
            )
    return found


def _runs(session: Session, feeds: Mapping[str, NDArray[Any]]) -> bool:
    """Whether a model takes the batch that all are timed with; one of another fixed batch does not."""
    try:
        session.run(feeds)
    except RuntimeModelError:
        return False
    return True


def _with_figures(
    row: ComparedModel, key: str, results: SideBySide, times: Mapping[str, Latency], providers: Sequence[str]
) -> ComparedModel:
    assert row.path is not None  # only rows with a file are measured
    quality: Quality = results.qualities[key]
    fusion: Fusion = inspect_fusion(row.path, providers=providers)
    return replace(
        row,
        bytes=file_bytes(row.path),
        top1=quality.top1,
        agreement=quality.agreement,
        sqnr_db=quality.sqnr_db,
        fused=fusion.fused + len(fusion.blockwise),
        layers=fusion.layers,
        latency=times.get(key),
    )


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
