"""Compilations of networks without classes, in this process: what is kept of families, and what of real inputs."""

import hashlib
import json
import pickle
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import runtime_key, source_key
from numpy.typing import NDArray
from real_inputs import Feeds, Subject

from backends.session import open_session
from zsq_compile.compiler import CompileResult, compile_model
from zsq_compile.config.compile import CompileConfig, Effort, QuantizationConfig
from zsq_compile.data.posterior import Posterior
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ZsqError
from zsq_compile.files import file_sha256
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.stages.answering_family import AnsweringFamily, wants_answers
from zsq_compile.stages.estimate_agreement import EstimateInputs, Fit, make_estimate_inputs
from zsq_compile.tasks.compare_outputs import compare_outputs
from zsq_compile.tasks.find_task import find_task
from zsq_compile.tasks.task import Task, TaskQuality
from zsq_compile.verification.agreement_estimate import AgreementEstimate, Family
from zsq_compile.verification.measure_families import measure_families
from zsq_compile.verification.running import run_batched

_TOLD = 8  # samples that tell what the outputs are


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Compiled:
    """One file, what it keeps of real inputs, and what was measured without them.

    Attributes:
        key: of the network.
        group: see ``Subject``.
        widths: such as "W8A8".
        path: of the file.
        task: what the network is for, as told by its graph and made-up samples.
        real: what the file keeps of what the float network says on real inputs.
        inputs: what the estimate is made on, without the arrays.
        families: what was measured on them.
        source: what the estimate says of calibration.
        seconds: processor seconds of the compilation.

    """

    key: str
    group: str
    widths: str
    path: Path
    task: Task
    real: TaskQuality
    inputs: EstimateInputs
    families: tuple[Family, ...]
    source: str
    seconds: float

    def estimate(self, fit: Fit) -> AgreementEstimate:
        """Estimate as the product does, with other constants."""
        return self.inputs.estimate(self.families, self.source, fit=fit)

    def likeliest(self) -> list[Family]:
        """Families under the most probable preprocessing."""
        numbers = self.inputs.hypotheses
        return [one for one in self.families if numbers.get(one.name, 0) == 0]


class Workshop:
    """Compiles and judges; finished work is kept in a folder, for one source of the compiler.

    ``older`` takes what another source made, the newest first, and ``making`` False makes nothing.
    """

    def __init__(self, folder: Path, *, effort: Effort, fresh: bool, older: bool, making: bool) -> None:
        self._folder, self._effort, self._fresh, self._older, self._making = folder, effort, fresh, older, making
        folder.mkdir(parents=True, exist_ok=True)

    def compiled(self, subject: Subject, bits: int = 8) -> Compiled | None:
        """Compile and judge one file, or find what was made before; None, with a line, where it cannot be compiled."""
        words = [file_sha256(subject.path), str(bits), self._effort, runtime_key()]
        stem = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
        place = self._folder / f"{subject.key}.{stem}.{source_key()[:12]}.pickle"
        if place.is_file() and not self._fresh:
            return _read(place)
        others = sorted(self._folder.glob(f"{subject.key}.{stem}.*.pickle"), key=lambda one: -one.stat().st_mtime)
        if self._older and others:
            return _read(others[0])
        if not self._making:
            return None
        try:
            made = self._make(subject, bits, place.with_suffix(".onnx"))
        except ZsqError as error:
            print(f"{subject.key} W{bits}: {error}", file=sys.stderr)
            return None
        scratch = place.with_suffix(".part")
        scratch.write_bytes(pickle.dumps(made))
        scratch.replace(place)
        return made

    def _make(self, subject: Subject, bits: int, output: Path) -> Compiled:
        start = time.process_time()
        config = CompileConfig(quantization=QuantizationConfig(bits=bits), effort=self._effort, speed_trials=False)
        result = compile_model(subject.path, output, config)
        seconds = time.process_time() - start
        loaded = load_model(subject.path, verify=False)
        inputs, task = _estimate_inputs(loaded, result, self._effort)
        assert inputs.families is not None
        families = measure_families(
            loaded.original,
            output,
            inputs.families,
            axes=loaded.face.axes,
            uneven=loaded.uneven_outputs,
            task=task,
        )
        _, feeds = subject.real()
        return Compiled(
            key=subject.key,
            group=subject.group,
            widths=f"W{bits}A8",
            path=output,
            task=task,
            real=quality_on(task, subject.path, output, feeds),
            inputs=replace(inputs, families={name: {} for name in inputs.families}),
            families=families,
            source=result.report.data,
            seconds=seconds,
        )


def _estimate_inputs(loaded: LoadedModel, result: CompileResult, effort: Effort) -> tuple[EstimateInputs, Task]:
    """Make what the product makes, from what it believes of the inputs."""
    posteriors: Mapping[str, Posterior] = {} if result.synthetic is None else result.synthetic.posteriors
    first = make_estimate_inputs(loaded.inputs, posteriors)
    assert first.families is not None
    few = {name: value[:_TOLD] for name, value in next(iter(first.families.values())).items()}
    session = open_session(loaded.original)
    outputs = run_batched(session, few, axes=loaded.face.axes, uneven=loaded.uneven_outputs)
    task = find_task(loaded.model, outputs)
    if not wants_answers(task):
        return replace(first, task=task), task
    moved = AnsweringFamily(teacher=TorchGraph(loaded.model), effort=effort)
    return make_estimate_inputs(loaded.inputs, posteriors, task=task, answering=moved), task


def quality_on(task: Task, reference: Path, other: Path, feeds: Sequence[Feeds]) -> TaskQuality:
    """Compare two files on inputs as the network takes them, one after the other."""
    wanted, got = (run_feeds(path, feeds) for path in (reference, other))
    names = list(wanted)
    return compare_outputs(task, wanted, dict(zip(names, got.values(), strict=True)))


def run_feeds(path: Path, feeds: Sequence[Feeds]) -> dict[str, NDArray[Any]]:
    """Run a file on feeds; its outputs joined along axis 0."""
    session = open_session(path)
    runs = [session.run(one) for one in feeds]
    return {name: np.concatenate([run[name] for run in runs]) for name in session.output_names}


def _read(place: Path) -> Compiled:
    made: Compiled = pickle.loads(place.read_bytes())
    return made
