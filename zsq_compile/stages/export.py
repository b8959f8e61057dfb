"""The last steps of a compilation: the file is written, run, and where it is slower than float, written otherwise."""

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
from passes.emit.emit import emit
from zsq_compile.data.dataset import Dataset
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.files import write_model
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Clock
from zsq_compile.quantization.planning import float_bytes, require_within
from zsq_compile.stages.calibration_data import CalibrationData, feeds
from zsq_compile.stages.faster_variants import SpeedTrials, try_forms
from zsq_compile.stages.quantize import FloatNetwork, QuantizedNetwork
from zsq_compile.verification.validate import Validation, validate

_SLOWER = 1.05  # times as long as the float file


@dataclass(frozen=True, kw_only=True, slots=True)
class Proven:
    """A file that its runtime has run.

    Attributes:
        validation: of the file as it stands.
        trials: other forms that were timed; None where there was no reason to.

    """

    validation: Validation
    trials: SpeedTrials | None


def prove(
    loaded: LoadedModel,
    quantized: QuantizedNetwork,
    path: Path,
    network: FloatNetwork,
    labelled: Dataset | None,
    clock: Clock,
) -> Proven:
    """Write a quantized network, validate it, and try other forms where it is slower than the float one.

    Args:
        loaded: the float model.
        quantized: its graph is brought into the form in which it is written.
        path: the file.
        network: what was quantized: target, samples, limit and configuration are used.
        labelled: real data to judge with, or None.
        clock: times and shows the stages.

    Raises:
        QuantizationError: the file is larger than its limit.
        ValidationError: the runtime does not run it.

    """
    target, samples = network.target, network.samples
    before = quantized.model.clone()
    with clock.stage("write"):
        emit(quantized.model, quantized.plan, target)
        require_within(quantized.model, network.limit)
        write_model(quantized.model, path)
    with clock.stage("validate"):
        validation = _validate(loaded, quantized.model, path, samples, target, labelled)
    if not (network.config.speed_trials and _slower(validation) and _at_hand(target)):
        return Proven(validation=validation, trials=None)
    costs = None if validation.speed is None else validation.speed.costs
    with clock.stage("try other forms"):
        held_out = {name: tensor.numpy() for name, tensor in samples.held_out.items()}
        trials = try_forms(
            loaded.original, before, path, quantized.plan, target, held_out, costs=costs, limit=network.limit
        )
        clock.progress.note(trials.words())
        if trials.chosen is None:
            return Proven(validation=validation, trials=trials)
        with tempfile.TemporaryDirectory(prefix="zsq_") as folder:
            trial = Path(folder) / path.name
            write_model(trials.chosen, trial)
            validation = _validate(loaded, trials.chosen, trial, samples, target, labelled)
        write_model(trials.chosen, path)
    return Proven(validation=validation, trials=trials)


def _slower(validation: Validation) -> bool:
    """Tell whether a file is slower than the float one beyond noise, and by more than one would shrug at."""
    audit, speedup = validation.speed, validation.speedup
    return audit is not None and audit.verdict == "slower" and speedup is not None and speedup < 1.0 / _SLOWER


def _at_hand(target: Target) -> bool:
    """Tell whether the target's own runtime is here, whose clock counts."""
    return usable_providers(target.providers) == target.providers


def _validate(
    loaded: LoadedModel,
    quantized: ir.Model,
    path: Path,
    samples: CalibrationData,
    target: Target,
    labelled: Dataset | None,
) -> Validation:
    simulated = _simulated(quantized, loaded, samples)
    return validate(
        loaded.original,
        path,
        {name: tensor.numpy() for name, tensor in samples.held_out.items()},
        simulated,
        providers=usable_providers(target.providers),
        stand_in=not _at_hand(target),
        session_config=target.session_config,
        labelled=labelled,
        float_bytes=float_bytes(loaded),
    )


def _simulated(quantized: ir.Model, loaded: LoadedModel, samples: CalibrationData) -> dict[str, NDArray[Any]]:
    """Run the emitted graph in torch on the held-out samples."""
    graph = TorchGraph(quantized)
    with torch.inference_mode():
        parts = [graph.run(feed) for feed in feeds(samples.held_out, loaded.inputs)]
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in graph.output_names}
