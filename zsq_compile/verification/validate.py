"""Check an emitted file in its runtime and measure it against the float model."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from backends.session import RuntimeModelError, open_session
from zsq_compile.data.batch_axes import FIRST, BatchAxes
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ValidationError
from zsq_compile.files import file_bytes
from zsq_compile.metrics import agreement, array_outputs, decision_output, is_silent, sqnr_db
from zsq_compile.tasks.task import OutputRole, Task
from zsq_compile.verification.fusion import Fusion, inspect_fusion
from zsq_compile.verification.held_out import HeldOutRuns, Simulate, run_held_out
from zsq_compile.verification.labelled_quality import LabelledQuality, measure_labelled
from zsq_compile.verification.latency import Latency
from zsq_compile.verification.running import Arrays, first_sample
from zsq_compile.verification.simulation import SimulationMatch, match_simulation
from zsq_compile.verification.speed import SpeedAudit, audit_speed
from zsq_compile.verification.task_figures import (
    CLASS_KINDS,
    TaskFigures,
    judged_outputs,
    measure_task,
)
from zsq_compile.verification.uneven import Rows, alike_elements, compare_rows

_DECIDED: tuple[OutputRole, ...] = ("class scores", "indices", "count")


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputQuality:
    """Float against quantized model at one output, on held-out data.

    Attributes:
        name: name of the output.
        sqnr_db: signal to quantization noise ratio; None for outputs that are no floats, or nothing but zeros.
        agreement: share of equal decisions for a class or a number, 0 to 1; None where the output holds none.
        rows: of an output whose size depends on the data, whose other figures are those of the runs that gave as many
            rows; None for all others.
        silent: the float model's numbers are all zeros, on every sample.

    """

    name: str
    sqnr_db: float | None
    agreement: float | None
    rows: Rows | None = None
    silent: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Measurements of one emitted file.

    Attributes:
        samples: held-out samples that were compared.
        outputs: float against quantized, one entry for each output.
        decision_output: name of the output that ``agreement`` is counted at; None where the network chooses no class.
        fusion: counts of the graph as the runtime optimised it.
        simulation: None when no simulation was given.
        labelled: None when no data of the user were given.
        float_bytes: size of the float file.
        quantized_bytes: size of the emitted file.
        latency: "float" and "quantized", at the smallest batch; empty when it was not measured.
        failures: reasons not to ship the file.
        warnings: for the user.
        speed: whether the file is faster beyond noise, and which nodes cost the time if it is slower; None when no
            latency was measured.
        worst_agreement: the lowest share of equal decisions over the populations that the held-out samples are from;
            None where they are from one, or the network chooses no class.
        task: what is kept of what the network is for; None where nobody said what that is.

    """

    samples: int
    outputs: tuple[OutputQuality, ...]
    decision_output: str | None
    fusion: Fusion
    simulation: SimulationMatch | None
    labelled: LabelledQuality | None
    float_bytes: int
    quantized_bytes: int
    latency: Mapping[str, Latency]
    failures: tuple[str, ...]
    warnings: tuple[str, ...]
    speed: SpeedAudit | None = None
    worst_agreement: float | None = None
    task: TaskFigures | None = None

    @property
    def share(self) -> float | None:
        """Share of what the float model says that is kept; of a network without a known task, ``agreement``."""
        return self.agreement if self.task is None else self.task.share

    @property
    def worst_share(self) -> float | None:
        """The lowest of these over the populations."""
        return self.worst_agreement if self.task is None else self.task.worst_share

    @property
    def agreement(self) -> float | None:
        """Share of equal decisions at ``decision_output``."""
        return next((output.agreement for output in self.outputs if output.name == self.decision_output), None)

    @property
    def sqnr_db(self) -> float | None:
        """Lowest ratio over the float outputs whose size does not depend on the data."""
        even = (output.sqnr_db for output in self.outputs if output.rows is None)
        return min((ratio for ratio in even if ratio is not None), default=None)

    @property
    def speedup(self) -> float | None:
        """Latency of the float model over that of the quantized one."""
        if not self.latency:
            return None
        return self.latency["float"].median_ms / self.latency["quantized"].median_ms


def validate(
    original: onnx.ModelProto,
    emitted: Path,
    held_out: Mapping[str, NDArray[Any]],
    simulate: Simulate | None = None,
    *,
    uneven: Collection[str] = (),
    providers: Sequence[str] = ("CPUExecutionProvider",),
    stand_in: bool = False,
    session_config: Mapping[str, str] | None = None,
    threads: int | None = None,
    labelled: Dataset | None = None,
    float_bytes: int | None = None,
    latency_seconds: float = 3.0,
    axes: BatchAxes = FIRST,
    populations: NDArray[np.int64] | None = None,
    task: Task | None = None,
) -> Validation:
    """Check an emitted file in its runtime and measure it against the float model.

    Args:
        original: the float model.
        emitted: the quantized file.
        held_out: inputs by name, (count, ...), that took no part in calibration.
        simulate: runs the simulation on what the runtime is fed.
        uneven: names of the outputs whose size depends on the data.
        providers: execution providers of the target.
        stand_in: these providers are not the target's own, so that their fusion and speed give no warnings.
        session_config: entries of the target's session options.
        threads: threads inside an operator; None leaves the choice to the runtime.
        labelled: data of the user; without labels they tell what is kept only.
        float_bytes: size of the user's file; None takes that of ``original`` as it would be written.
        latency_seconds: time to spend on latency; 0 measures none.
        axes: of the batch in both files.
        populations: (count,) number of the population that each held-out sample is from; None where all are from one.
        task: what the network is for; None takes the first output that can hold decisions for a classifier's.

    Raises:
        ValidationError: the file is no valid ONNX, the runtime cannot load or run it, or its outputs differ in
            name or shape (of ``uneven`` ones: in rank or type).
        ConfigError: ``held_out`` or ``labelled`` do not fit the model.

    """
    _check_file(emitted)
    with _runtime_errors(emitted):
        opened = partial(open_session, providers=providers, threads=threads, config=session_config, lean=True)
        reference, session = opened(original), opened(emitted)
        runs = run_held_out(reference, session, held_out, simulate, axes, uneven)
        runs.require_alike(emitted)
        wanted, got = runs.joined(runs.wanted), runs.joined(runs.got)
        match = None if runs.simulated is None else match_simulation(runs.joined(runs.simulated), got, wanted)
        fusion = inspect_fusion(emitted, providers=providers, config=session_config)
        audit = partial(audit_speed, threads=threads, providers=providers, config=session_config)
        sample = first_sample(session, held_out, axes)
        speed = audit(original, emitted, sample, seconds=latency_seconds) if latency_seconds > 0.0 else None
        outputs = tuple(_qualities(runs, wanted, got, task))
        look = partial(measure_labelled, reference, session, task=task, axes=axes, uneven=runs.uneven)
        figures = None if task is None else measure_task(task, wanted, got, populations)
        return Validation(
            samples=min(len(array) for array in held_out.values()),
            outputs=outputs,
            decision_output=_decision_output(wanted, task),
            fusion=fusion,
            simulation=match,
            labelled=None if labelled is None else look(labelled),
            float_bytes=original.ByteSize() if float_bytes is None else float_bytes,
            quantized_bytes=file_bytes(emitted),
            latency={} if speed is None else speed.latency,
            failures=(*_failures(wanted, got, match), *runs.uneven_failures()),
            warnings=_warnings(outputs, figures, None if stand_in else fusion, match, None if stand_in else speed),
            speed=speed,
            worst_agreement=_worst_agreement(_decision_output(wanted, task), wanted, got, populations),
            task=figures,
        )


def _decision_output(wanted: Arrays, task: Task | None) -> str | None:
    """Name of the output that holds decisions for a class; None where the network is for something else."""
    if task is None:
        return decision_output(array_outputs(wanted))
    return next((name for name in judged_outputs(task) if name in wanted and task.kind in CLASS_KINDS), None)


def _worst_agreement(
    name: str | None, wanted: Arrays, got: Arrays, populations: NDArray[np.int64] | None
) -> float | None:
    """Lowest agreement over populations, where the output that is decided at has a row for each sample."""
    if populations is None or name is None or len(wanted[name]) != len(populations):
        return None
    parts = (populations == number for number in np.unique(populations))
    found = [agreement(wanted[name][own], got[name][own]) for own in parts]
    return min((one for one in found if one is not None), default=None)


@contextmanager
def _runtime_errors(emitted: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeModelError as error:
        raise ValidationError(f"the emitted model {emitted} failed in the runtime: {error}") from error


def _check_file(emitted: Path) -> None:
    try:
        onnx.checker.check_model(emitted, full_check=True)
    except Exception as error:  # the checker raises its own error and those of the shape inference
        raise ValidationError(f"the emitted model {emitted} is not valid ONNX: {error}") from error


def _qualities(runs: HeldOutRuns, wanted: Arrays, got: Arrays, task: Task | None) -> Iterator[OutputQuality]:
    """Compare each output, in order; ``wanted`` and ``got`` are joined, and hold those that are not uneven."""
    decided = None if task is None else {one.name for one in task.outputs if one.role in _DECIDED}
    for name in runs.wanted[0]:
        decides = decided is None or name in decided
        if name in wanted:
            yield _quality(name, wanted[name], got[name], None, decides=decides)
        else:
            columns = runs.column(runs.wanted, name), runs.column(runs.got, name)
            yield _quality(name, *alike_elements(*columns), compare_rows(name, *columns), decides=decides)


def _quality(name: str, wanted: NDArray[Any], got: NDArray[Any], rows: Rows | None, *, decides: bool) -> OutputQuality:
    is_float = np.issubdtype(wanted.dtype, np.floating)
    return OutputQuality(
        name=name,
        sqnr_db=sqnr_db(wanted, got) if is_float and not is_silent(wanted) else None,
        agreement=agreement(wanted, got) if decides else None,
        rows=rows,
        silent=is_float and wanted.size > 0 and is_silent(wanted),
    )


def _failures(
    wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]], match: SimulationMatch | None
) -> tuple[str, ...]:
    failures = [
        f"output {name!r} is not finite where the float model's is"
        for name, array in wanted.items()
        if np.issubdtype(array.dtype, np.floating) and np.any(np.isfinite(array) & ~np.isfinite(got[name]))
    ]
    if match is not None and match.broken:
        failures.append(f"the runtime's output is not that of the simulation: {_difference(match)}")
    return tuple(failures)


def _warnings(
    outputs: Sequence[OutputQuality],
    figures: TaskFigures | None,
    fusion: Fusion | None,
    match: SimulationMatch | None,
    speed: SpeedAudit | None,
) -> tuple[str, ...]:
    silence = None if figures is None else figures.silence
    warnings = [] if silence is None else [silence]
    warnings += [
        f"output {one.name!r} of the float model is nothing but zeros on the samples held out: they prove nothing of it"
        for one in outputs
        if one.silent
    ]
    if fusion is not None and fusion.unfused:
        names = ", ".join(fusion.unfused[:5]) + (" ..." if len(fusion.unfused) > 5 else "")
        count = len(fusion.unfused)
        warnings.append(f"{count} quantized layers run in float, because the runtime did not fuse them: {names}")
    if match is not None and not (match.close or match.broken):
        warnings.append(
            f"the runtime's output deviates from the simulation by more than rounding explains: {_difference(match)}"
        )
    if speed is not None and speed.verdict == "slower":
        warnings.append(speed.describe())
    if speed is not None and speed.denormal_ms is not None:
        warnings.append(speed.describe_denormals())
    return tuple(warnings)


def _difference(match: SimulationMatch) -> str:
    ratio = "" if match.sqnr_db is None else f", SQNR {match.sqnr_db:.1f} dB"
    return (
        f"{match.share_beyond_step:.1%} of the elements of {match.output!r} differ by more than one step "
        f"({match.step:.3g}), by at most {match.largest:.3g}{ratio}"
    )
