"""The last stage of a compilation: the file is written, run, and where it is slower than float, written otherwise."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from backends.session import usable_providers
from backends.target import Target
from zsq_compile.data.dataset import Dataset
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.files import write_model
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Clock
from zsq_compile.quantization.planning import float_bytes
from zsq_compile.quantization.samples import Samples
from zsq_compile.quantization.state import FloatNetwork, QuantizedState
from zsq_compile.stages.faster_variants import SpeedTrial, emit_model, try_forms
from zsq_compile.verification.validate import Validation, validate

_LEAST_SPEED = 0.97  # of the float file's: other forms are tried below it, even where the clock is not certain
_FAST_ENOUGH = 0.99  # and below this where it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A file that its runtime has run.

    ``trials`` are the forms that were timed, the first one of the file among them; empty where there was no reason to.
    """

    path: Path
    validation: Validation
    trials: tuple[SpeedTrial, ...] = ()


def export(
    loaded: LoadedModel,
    network: FloatNetwork,
    state: QuantizedState,
    path: Path,
    clock: Clock,
    *,
    labelled: Dataset | None,
    speed_trials: bool,
) -> Exported:
    """Write a quantized network, validate it, and try other forms where it is slower than the float one.

    ``labelled`` is real data to validate with, too; without ``speed_trials`` the first form stays.

    Raises:
        QuantizationError: the file is larger than its limit.
        ValidationError: the runtime does not run it.

    """
    target = network.target
    with clock.stage("write"):
        emitted = emit_model(state.qdq.clone(), state.plan, target, network.limit)
        write_model(emitted, path)
    with clock.stage("validate"):
        validation = _validate(loaded, emitted, path, network.held_out, target, labelled)
    if not (speed_trials and _is_slower(validation) and _is_here(target)):
        return Exported(path=path, validation=validation)
    costs = None if validation.speed is None else validation.speed.costs
    with clock.stage("try other forms"):
        found = try_forms(loaded.original, network, state, path, costs)
        clock.progress.note(found.words())
        if found.chosen is not None:
            with tempfile.TemporaryDirectory(prefix="zsq_") as folder:
                trial = Path(folder) / path.name
                write_model(found.chosen, trial)
                validation = _validate(loaded, found.chosen, trial, network.held_out, target, labelled)
            write_model(found.chosen, path)
    return Exported(path=path, validation=validation, trials=found.trials)


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
    loaded: LoadedModel, emitted: ir.Model, path: Path, held_out: Samples, target: Target, labelled: Dataset | None
) -> Validation:
    return validate(
        loaded.original,
        path,
        held_out.arrays(),
        _simulate(emitted, held_out),
        providers=usable_providers(target.providers),
        stand_in=not _is_here(target),
        session_config=target.session_config,
        labelled=labelled,
        float_bytes=float_bytes(loaded),
    )


def _simulate(emitted: ir.Model, held_out: Samples) -> dict[str, NDArray[Any]]:
    """Run the emitted graph in torch on the held-out samples."""
    graph = TorchGraph(emitted)
    with torch.inference_mode():
        parts = [graph.run(batch) for batch in held_out.batches()]
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in graph.output_names}
