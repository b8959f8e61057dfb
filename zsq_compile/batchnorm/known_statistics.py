"""What is known of the training data's statistics, told to the user; and what a model knows, kept in a file."""

from collections.abc import Mapping
from pathlib import Path

from passes.batchnorm.harvest_batchnorm import folded_advice, harvest_batchnorm
from passes.batchnorm.place_statistics import folded_norms
from zsq_compile.batchnorm.find_statistics import KnownStatistics, search_statistics
from zsq_compile.batchnorm.statistics_file import StatisticsFile, write_statistics
from zsq_compile.config.compile import CompileConfig
from zsq_compile.errors import UnsupportedModelError
from zsq_compile.files import file_sha256
from zsq_compile.frontend.load import LoadedModel, load_model
from zsq_compile.progress import Progress


def known_statistics(loaded: LoadedModel, config: CompileConfig, progress: Progress) -> KnownStatistics:
    """Harvest a model, look into the checkpoint or the statistics file that was given, and tell what was found.

    Raises:
        ConfigError: the file cannot be read, or belongs to another network.

    """
    _tell(loaded, progress)
    checkpoint, bn_stats = (None if given is None else Path(given) for given in (config.checkpoint, config.bn_stats))
    known = search_statistics(loaded.model, loaded.path, checkpoint=checkpoint, bn_stats=bn_stats, progress=progress)
    progress.note(f"statistics: {known.source}")
    for line in known.matched:
        progress.detail(f"matched {line}")
    for line in known.unmatched:
        progress.detail(f"not matched {line}")
    if known.statistics.usable:
        progress.note(known.statistics.coverage())
    else:
        advice = "" if known.statistics.entries else f". {folded_advice()}"
        progress.warn(f"{known.statistics.coverage()}{advice}")
    return known


def _tell(loaded: LoadedModel, progress: Progress) -> None:
    """Tell what became of a file while it was loaded."""
    for text in loaded.notes:
        progress.note(text)
    for text in loaded.warnings:
        progress.warn(text)


def keep_statistics(
    model: Path, output: Path, progress: Progress, *, input_shapes: Mapping[str, tuple[int | None, ...]] | None = None
) -> StatisticsFile:
    """Write what the BatchNormalizations of a model remember, for the same network with folded ones.

    Args:
        model: an .onnx file with BatchNormalization nodes.
        output: the .npz file to write.
        progress: is told of the stage, of notes, and of nodes that are left out.
        input_shapes: see ``load_model``.

    Raises:
        UnsupportedModelError: no BatchNormalization of the model can be folded into a layer.
        ConfigError: the file cannot be written.

    """
    with progress.stage("load"):
        loaded = load_model(model, input_shapes=input_shapes or {})
    _tell(loaded, progress)
    statistics = harvest_batchnorm(loaded.model)
    norms = folded_norms(loaded.model, statistics)
    if not norms:
        raise UnsupportedModelError(
            f"{model} holds no BatchNormalization behind a layer, whose statistics could be kept. {folded_advice()}"
        )
    kept = {norm.entry.node for norm in norms}
    for entry in statistics.entries:
        if entry.node not in kept:
            progress.note(f"{entry.node} is left out: no exporter can fold it into a layer")
    for refusal in statistics.refusals:
        if refusal.where not in kept:
            progress.note(f"{refusal.where} is left out: {refusal.reason}")
    made = StatisticsFile(model=model.name, model_sha256=file_sha256(model), norms=norms)
    write_statistics(output, made)
    return made
