"""The last stage of a compilation: the file is written, run, and where it is slower than float, written otherwise."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch

from backends.session import usable_providers
from backends.target import Target
from zsq_compile.data.dataset import Dataset
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.metrics import decibel_words
from zsq_compile.progress import Clock, Progress
from zsq_compile.quantization.planning import float_bytes
from zsq_compile.quantization.samples import Batch, Samples
from zsq_compile.quantization.state import FloatNetwork, QuantizedState
from zsq_compile.stages.faster_variants import SpeedTrial, emit_model, try_forms
from zsq_compile.verification.held_out import Simulate
from zsq_compile.verification.other_sizes import run_other_sizes
from zsq_compile.verification.running import Arrays, join_runs
from zsq_compile.verification.validate import Validation, validate

_LEAST_SPEED = 0.97  # of the float file's: other forms are tried below it, even where the clock is not certain
_FAST_ENOUGH = 0.99  # and below this where it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A file that its runtime has run.

    ``trials`` are the forms that were timed, the first one of the file among them; empty where there was no reason to.
    ``state`` is what the file was made from, where a form was chosen that quantizes fewer values; else None.
    """

    path: Path
    validation: Validation
    trials: tuple[SpeedTrial, ...] = ()
    state: QuantizedState | None = None


def export(
    loaded: LoadedModel,
    network: FloatNetwork,
    state: QuantizedState,
    path: Path,
    clock: Clock,
    *,
    labelled: Dataset | None,
    speed_trials: bool,
    chosen_on: bool = False,
) -> Exported:
    """Write a quantized network, validate it, and try other forms where it is slower than the float one.

    Args:
        loaded: the float model.
        network: the same, folded, with its samples; what chooses on those held out takes the first of their halves.
        state: the quantized network.
        path: file to write.
        clock: for the stages.
        labelled: real data to validate with, too.
        speed_trials: without, the first form stays.
        chosen_on: samples held out have had a part in the making, so that half of them judge.

    Raises:
        QuantizationError: the file is larger than its limit.
        ValidationError: the runtime does not run it.

    """
    target = network.target
    with clock.stage("write"):
        emitted = emit_model(state.qdq.clone(), state.plan, target, network.limit)
        loaded.face.write(emitted, path)
    with clock.stage("validate"):
        judges = network.held_out.halves()[1] if chosen_on else network.held_out
        validation = _validate(loaded, emitted, path, judges, network, labelled, clock.progress)
    if not (speed_trials and _is_slower(validation) and _is_here(target)):
        return Exported(path=path, validation=validation)
    costs = None if validation.speed is None else validation.speed.costs
    with clock.stage("try other forms"):
        found = try_forms(loaded, network, state, path, costs)
        clock.progress.note(found.words())
        if found.chosen is not None:
            with tempfile.TemporaryDirectory(prefix="zsq_") as folder:
                trial = Path(folder) / path.name
                loaded.face.write(found.chosen, trial)
                judges = network.held_out.halves()[1]
                validation = _validate(loaded, found.chosen, trial, judges, network, labelled, clock.progress)
            loaded.face.write(found.chosen, path)
    return Exported(path=path, validation=validation, trials=found.trials, state=found.state)


def _is_slower(validation: Validation) -> bool:
    """Tell whether a file may be slower than the float one; ``try_forms`` times it again before it takes another."""
    audit, speedup = validation.speed, validation.speedup
    if audit is None or speedup is None:
        return False
    return speedup < (_FAST_ENOUGH if audit.verdict == "slower" else _LEAST_SPEED)


def _is_here(target: Target) -> bool:
    """Tell whether the target's own runtime is here, whose clock counts."""
    return usable_providers(target.providers) == target.providers


def _validate(
    loaded: LoadedModel,
    emitted: ir.Model,
    path: Path,
    held_out: Samples,
    network: FloatNetwork,
    labelled: Dataset | None,
    progress: Progress,
) -> Validation:
    """Validate a file, at the sizes that it was made with and at others that the float model runs at."""
    target = network.target
    simulate, providers = _simulation(emitted, held_out, loaded), usable_providers(target.providers)
    validation = validate(
        loaded.original,
        path,
        held_out.arrays(),
        simulate,
        uneven=loaded.uneven_outputs,
        providers=providers,
        stand_in=not _is_here(target),
        session_config=target.session_config,
        labelled=labelled,
        float_bytes=float_bytes(loaded),
        axes=loaded.face.axes,
        populations=None if held_out.populations is None else held_out.populations.numpy(),
        task=network.task,
    )
    others = run_other_sizes(
        loaded.original,
        path,
        held_out.arrays(),
        loaded.other_inputs,
        simulate,
        providers=providers,
        config=target.session_config,
        axes=loaded.face.axes,
        uneven=loaded.uneven_outputs,
    )
    for other in others:
        ratio = "" if other.sqnr_db is None else f": SQNR {decibel_words(other.sqnr_db)}"
        progress.note(f"run at other sizes, too ({other.words()}){ratio}")
    failures = tuple(f"at {other.words()}: {other.failure}" for other in others if other.failure is not None)
    return replace(validation, failures=(*validation.failures, *failures))


def _simulation(emitted: ir.Model, held_out: Samples, loaded: LoadedModel) -> Simulate:
    """Run the emitted graph in torch, in batches that fit a run of the float model."""
    graph = TorchGraph(emitted)
    shared = None in loaded.face.axes.inputs.values()  # an input that a run has one of, whatever the batch

    def simulate(feeds: Arrays) -> Arrays:
        inputs = {name: torch.from_numpy(array) for name, array in feeds.items()}
        batches = [inputs] if shared else Samples(inputs=inputs, fixed=held_out.fixed).fitting(loaded.model)
        with torch.inference_mode():
            parts = [graph.run(batch) for batch in batches]
            if not all(map(_has_batch, parts, batches)):
                parts = [graph.run(inputs)]  # parts of an output without a batch in front cannot be joined
        return join_runs([{name: value.numpy() for name, value in part.items()} for part in parts])

    return simulate


def _has_batch(outputs: Batch, inputs: Batch) -> bool:
    """Whether all outputs of a run have as many rows as its inputs."""
    return {len(value) if value.ndim else 1 for value in outputs.values()} == {len(next(iter(inputs.values())))}
