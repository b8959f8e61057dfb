"""What is known of the training data's statistics: from the model's own nodes, or from a file beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passes.harvest_batchnorm import BatchNormStatistics, folded_advice, harvest_batchnorm
from passes.match_checkpoint import match_checkpoint
from passes.place_statistics import folded_norms, place_statistics
from passes.recovered import Recovered, joined
from passes.weighted_layers import folded_layers
from zsq_compile.checkpoint_file import read_checkpoint
from zsq_compile.config import CompileConfig
from zsq_compile.errors import ConfigError, UnsupportedModelError
from zsq_compile.loading import LoadedModel, load_model
from zsq_compile.progress import Progress
from zsq_compile.statistics_file import StatisticsFile, read_statistics, write_statistics
from zsq_compile.verification.report import file_sha256

_FROM_NODES = "from BN nodes"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KnownStatistics:
    """The statistics of one network, and where they come from.

    Attributes:
        statistics: of the model as it was loaded.
        source: where they come from, in words.
        matched: a line per BatchNormalization that was found in a file: the layer, and what it was found by.
        unmatched: a line per layer that no BatchNormalization was found for in that file, with the reason.

    """

    statistics: BatchNormStatistics
    source: str
    matched: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()

    @property
    def tier(self) -> str:
        """Where statistics that can be used come from, in few words: "from BN nodes", "from checkpoint x.pth" ..."""
        if not self.statistics.usable:
            return "without statistics"
        return f"from {self.source.partition(' from ')[2]}"

    def plain(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {"source": self.source, "matched": list(self.matched), "unmatched": list(self.unmatched)}


def known_statistics(loaded: LoadedModel, config: CompileConfig, progress: Progress) -> KnownStatistics:
    """Harvest a model, look into the checkpoint or the statistics file that was given, and tell what was found.

    Raises:
        ConfigError: the file cannot be read, or belongs to another network.

    """
    _tell(loaded, progress)
    known = _sought(loaded, config, progress)
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


def _sought(loaded: LoadedModel, config: CompileConfig, progress: Progress) -> KnownStatistics:
    harvested = harvest_batchnorm(loaded.model)
    path = config.checkpoint or config.bn_stats
    if path is None:
        return KnownStatistics(statistics=harvested, source=_told_by(harvested))
    if not folded_layers(loaded.model):
        progress.warn(
            f"{path} is not needed: every layer of {loaded.path} that could tell has its BatchNormalization still"
        )
        return KnownStatistics(statistics=harvested, source=_told_by(harvested))
    if config.checkpoint is not None:
        recovered, kind = match_checkpoint(loaded.model, read_checkpoint(Path(path))), "checkpoint "
    else:
        recovered, kind = place_statistics(loaded.model, read_statistics(Path(path)).norms), ""
    return _joined(loaded, harvested, recovered, f"{kind}{Path(path).name}", progress)


def _joined(
    loaded: LoadedModel, harvested: BatchNormStatistics, recovered: Recovered, source: str, progress: Progress
) -> KnownStatistics:
    unmatched = tuple(f"{one.where} ({one.op_type}): {one.reason}" for one in recovered.refusals)
    if not recovered.found:
        if not harvested.entries:
            shown = "; ".join(unmatched[:3])
            raise ConfigError(
                f"{source} is not of the network in {loaded.path}: not one of its {len(unmatched)} layers was found in "
                f"it ({shown}). Give the file of this very network, as it was when the model was exported"
            )
        progress.warn(f"{source} tells nothing that the nodes of {loaded.path} do not tell")
        return KnownStatistics(statistics=harvested, source=_told_by(harvested), unmatched=unmatched)
    words = f"{_count(len(recovered.found))} from {source}"
    return KnownStatistics(
        statistics=joined(loaded.model, harvested, recovered),
        source=f"{words}, {len(harvested.entries)} more {_FROM_NODES}" if harvested.entries else words,
        matched=tuple(f"{one.former.node}: {one.how}" for one in recovered.found),
        unmatched=unmatched,
    )


def _told_by(harvested: BatchNormStatistics) -> str:
    if not harvested.usable:
        return (
            "none that can be used"
            if harvested.entries
            else "none: batch normalisation was folded away, or never there"
        )
    return f"{_count(len(harvested.entries))} {_FROM_NODES}"


def _count(number: int) -> str:
    return f"{number} BatchNormalization{'' if number == 1 else 's'}"


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
