"""Check an emitted file in its runtime, and tell what quantization cost."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from backends.session import RuntimeModelError, open_session
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ValidationError
from zsq_compile.files import file_bytes
from zsq_compile.metrics import agreement, class_axis, sqnr_db
from zsq_compile.verification.fusion import Fusion, inspect_fusion
from zsq_compile.verification.labelled import LabelledQuality, labelled_quality
from zsq_compile.verification.latency import Latency
from zsq_compile.verification.running import first_sample, run_batched
from zsq_compile.verification.simulation import SimulationMatch, match_simulation
from zsq_compile.verification.speed import SpeedAudit, audit_speed


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputQuality:
    """Float against quantized model at one output, on held-out data.

    Attributes:
        name: name of the output.
        sqnr_db: signal to quantization noise ratio; None for outputs that are no floats.
        agreement: share of common decisions, 0 to 1; None when the output has no class axis.

    """

    name: str
    sqnr_db: float | None
    agreement: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """The evidence for one emitted file.

    Attributes:
        samples: held-out samples that were compared.
        outputs: float against quantized, one entry for each output.
        fusion: what the runtime made of the graph.
        simulation: None when no simulation was given.
        labelled: None when no labelled data were given.
        float_bytes: size of the float file.
        quantized_bytes: size of the emitted file.
        latency: "float" and "quantized", at the smallest batch; empty when it was not measured.
        failures: what makes the file unfit to ship, in words.
        warnings: what the user should know, in words.
        speed: whether the file is faster beyond noise, and what costs the time if it is slower; None when no latency
            was measured.

    """

    samples: int
    outputs: tuple[OutputQuality, ...]
    fusion: Fusion
    simulation: SimulationMatch | None
    labelled: LabelledQuality | None
    float_bytes: int
    quantized_bytes: int
    latency: Mapping[str, Latency]
    failures: tuple[str, ...]
    warnings: tuple[str, ...]
    speed: SpeedAudit | None = None

    @property
    def agreement(self) -> float | None:
        """Share of common decisions at the first output that has classes; None when there is no such output."""
        return next((output.agreement for output in self.outputs if output.agreement is not None), None)

    @property
    def sqnr_db(self) -> float | None:
        """Lowest ratio over the float outputs."""
        return min((output.sqnr_db for output in self.outputs if output.sqnr_db is not None), default=None)

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
    simulation: Mapping[str, NDArray[Any]] | None = None,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    stand_in: bool = False,
    session_config: Mapping[str, str] | None = None,
    threads: int | None = None,
    labelled: Dataset | None = None,
    float_bytes: int | None = None,
    latency_seconds: float = 3.0,
) -> Validation:
    """Check an emitted file in its runtime and measure it against the float model.

    Args:
        original: the float model.
        emitted: the quantized file.
        held_out: inputs by name, (count, ...), that took no part in calibration.
        simulation: outputs of the simulation on ``held_out`` by name, (count, ...).
        providers: execution providers of the target.
        stand_in: these providers are not the target's own, so what they fuse tells nothing of it.
        session_config: entries of the session options that the target needs.
        threads: threads inside an operator; None leaves the choice to the runtime.
        labelled: real data; without labels they give the agreement only.
        float_bytes: size of the user's file; None takes that of ``original`` as it would be written.
        latency_seconds: time to spend on latency; 0 measures none.

    Raises:
        ValidationError: the file is no valid ONNX, the runtime cannot load or run it, or its outputs differ in
            name or shape.
        ConfigError: ``held_out`` or ``labelled`` do not fit the model.

    """
    _check_file(emitted)
    with _in_words(emitted):
        reference, session = (
            open_session(model, providers=providers, threads=threads, config=session_config)
            for model in (original, emitted)
        )
        wanted, got = run_batched(reference, held_out), run_batched(session, held_out)
        _check_outputs(wanted, got, emitted)
        match = None if simulation is None else match_simulation(simulation, got, wanted)
        fusion = inspect_fusion(emitted, providers=providers, config=session_config)
        speed = None
        if latency_seconds > 0.0:
            feeds = first_sample(session, held_out)
            speed = audit_speed(
                original,
                emitted,
                feeds,
                threads=threads,
                seconds=latency_seconds,
                providers=providers,
                config=session_config,
            )
        return Validation(
            samples=min(len(array) for array in held_out.values()),
            outputs=tuple(_quality(name, wanted[name], got[name]) for name in wanted),
            fusion=fusion,
            simulation=match,
            labelled=None if labelled is None else labelled_quality(reference, session, labelled),
            float_bytes=original.ByteSize() if float_bytes is None else float_bytes,
            quantized_bytes=file_bytes(emitted),
            latency={} if speed is None else speed.latency,
            failures=_failures(wanted, got, match),
            warnings=_warnings(None if stand_in else fusion, match, None if stand_in else speed),
            speed=speed,
        )


@contextmanager
def _in_words(emitted: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeModelError as error:
        raise ValidationError(f"the emitted model {emitted} failed in the runtime: {error}") from error


def _check_file(emitted: Path) -> None:
    try:
        onnx.checker.check_model(emitted, full_check=True)
    except Exception as error:  # the checker raises its own error and those of the shape inference
        raise ValidationError(f"the emitted model {emitted} is not valid ONNX: {error}") from error


def _check_outputs(wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]], emitted: Path) -> None:
    for name, array in wanted.items():
        if name not in got:
            raise ValidationError(f"{emitted} has lost the output {name!r}; it has {', '.join(got)}")
        if got[name].shape != array.shape:
            raise ValidationError(f"{emitted}: the output {name!r} must be {array.shape}, got {got[name].shape}")


def _quality(name: str, wanted: NDArray[Any], got: NDArray[Any]) -> OutputQuality:
    floats = np.issubdtype(wanted.dtype, np.floating)
    decided = class_axis(wanted.shape) is not None or not floats
    return OutputQuality(
        name=name,
        sqnr_db=sqnr_db(wanted, got) if floats else None,
        agreement=agreement(wanted, got) if decided and wanted.size else None,
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
        failures.append(f"the runtime does not compute what the simulation did: {_difference(match)}")
    return tuple(failures)


def _warnings(fusion: Fusion | None, match: SimulationMatch | None, speed: SpeedAudit | None) -> tuple[str, ...]:
    warnings = []
    if fusion is not None and fusion.unfused:
        names = ", ".join(fusion.unfused[:5]) + (" ..." if len(fusion.unfused) > 5 else "")
        count = len(fusion.unfused)
        warnings.append(f"{count} quantized layers run in float, because the runtime did not fuse them: {names}")
    if match is not None and not (match.close or match.broken):
        warnings.append(f"the runtime's roundings differ from the simulation's, and it shows: {_difference(match)}")
    if speed is not None and speed.verdict == "slower":
        warnings.append(speed.words())
    return tuple(warnings)


def _difference(match: SimulationMatch) -> str:
    ratio = "" if match.sqnr_db is None else f", and the ratio to it {match.sqnr_db:.1f} dB"
    return (
        f"at the output {match.output!r} {match.share_beyond_step:.1%} of the elements lie more than one step "
        f"({match.step:.3g}) apart, the largest difference is {match.largest:.3g}{ratio}"
    )
