"""Save the statistics of a model's BatchNormalizations, for the same network where they are folded."""

from collections.abc import Mapping
from pathlib import Path

from passes.batchnorm.harvest_batchnorm import folded_advice, harvest_batchnorm
from passes.batchnorm.place_statistics import FoldedNorm, folded_norms
from zsq_compile.batchnorm.statistics_file import write_statistics
from zsq_compile.errors import UnsupportedModelError
from zsq_compile.frontend.load import load_model, report_loading
from zsq_compile.progress import Progress


def harvest_statistics(
    model: Path, output: Path, progress: Progress, *, input_shapes: Mapping[str, tuple[int | None, ...]] | None = None
) -> tuple[FoldedNorm, ...]:
    """Write the statistics of a model into an .npz file, and return them.

    Args:
        model: an .onnx file with BatchNormalization nodes.
        output: the .npz file to write.
        progress: receives the stage, and a note for each node that is left out.
        input_shapes: see ``load_model``.

    Raises:
        UnsupportedModelError: no BatchNormalization of the model can be folded into a layer.
        ConfigError: the file cannot be written.

    """
    with progress.stage("load"):
        loaded = load_model(model, input_shapes=input_shapes)
    report_loading(loaded, progress)
    statistics = harvest_batchnorm(loaded.model)
    norms = folded_norms(loaded.model, statistics)
    if not norms:
        raise UnsupportedModelError(
            f"{model} holds no BatchNormalization behind a layer, so there is nothing to save. {folded_advice()}"
        )
    kept = {norm.entry.node for norm in norms}
    reasons = {entry.node: "no exporter can fold it into a layer" for entry in statistics.entries}
    reasons |= {refusal.where: refusal.reason for refusal in statistics.refusals}
    for node, reason in reasons.items():
        if node not in kept:
            progress.note(f"{node} is left out: {reason}")
    write_statistics(output, model, norms)
    return norms
