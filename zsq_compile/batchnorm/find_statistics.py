"""Find statistics of the training data: in a model's own BatchNormalizations, then in a file beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics, folded_advice, harvest_batchnorm
from passes.batchnorm.match_checkpoint import match_checkpoint
from passes.batchnorm.place_statistics import place_statistics
from passes.batchnorm.recovered import Recovered, join_recovered
from passes.batchnorm.weighted_layers import folded_layers
from zsq_compile.batchnorm.statistics_file import read_statistics
from zsq_compile.errors import ConfigError
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.progress import Progress

_NODES = "BN nodes"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KnownStatistics:
    """The statistics of one network, and where they come from.

    Attributes:
        statistics: of the model as it was loaded.
        from_nodes: number of BatchNormalization nodes of the model that have statistics.
        file: the file that more were found in, such as "checkpoint x.pth"; None where none was.
        matched: a line per BatchNormalization that was found in that file: the layer, and what it was found by.
        unmatched: a line per layer that no BatchNormalization was found for in a file, with the reason.

    """

    statistics: BatchNormStatistics
    from_nodes: int
    file: str | None = None
    matched: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Where the statistics come from, with their number."""
        if self.file is not None:
            more = f", {self.from_nodes} more from {_NODES}" if self.from_nodes else ""
            return f"{_count(len(self.matched))} from {self.file}{more}"
        if self.statistics.usable:
            return f"{_count(self.from_nodes)} from {_NODES}"
        return "none that can be used" if self.from_nodes else "none: batch normalisation was folded or never there"

    @property
    def origin(self) -> str:
        """Where usable statistics come from: "from BN nodes", "from checkpoint x.pth", "without statistics"."""
        places = [*([] if self.file is None else [self.file]), *([_NODES] if self.from_nodes else [])]
        return f"from {' and '.join(places)}" if self.statistics.usable else "without statistics"

    def plain(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {"source": self.source, "matched": list(self.matched), "unmatched": list(self.unmatched)}


def find_statistics(
    loaded: LoadedModel, *, checkpoint: str | Path | None, bn_stats: str | Path | None, progress: Progress
) -> KnownStatistics:
    """Harvest a model, add what the given file holds for its folded layers, and report what was found.

    Args:
        loaded: the network.
        checkpoint: file of trained tensors; reading one imports torch.
        bn_stats: file of ``harvest_statistics``; at most one of the two is given.
        progress: receives notes and warnings.

    Raises:
        ConfigError: the file cannot be read, or belongs to another network.

    """
    known = _search(loaded, checkpoint, bn_stats, progress)
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


def _search(
    loaded: LoadedModel, checkpoint: str | Path | None, bn_stats: str | Path | None, progress: Progress
) -> KnownStatistics:
    model, harvested = loaded.model, harvest_batchnorm(loaded.model)
    given = checkpoint or bn_stats
    own = KnownStatistics(statistics=harvested, from_nodes=len(harvested.entries))
    if given is None:
        return own
    path = Path(given)
    if not folded_layers(model):
        progress.warn(f"{path} was ignored: all layers of {loaded.path} still have their BatchNormalization nodes")
        return own
    if checkpoint is not None:
        from zsq_compile.batchnorm.checkpoint import read_checkpoint

        return _join(loaded, own, match_checkpoint(model, read_checkpoint(path)), f"checkpoint {path.name}", progress)
    return _join(loaded, own, place_statistics(model, read_statistics(path)), path.name, progress)


def _join(
    loaded: LoadedModel, own: KnownStatistics, recovered: Recovered, file: str, progress: Progress
) -> KnownStatistics:
    unmatched = tuple(f"{one.where} ({one.op_type}): {one.reason}" for one in recovered.refusals)
    if not recovered.found:
        if not own.from_nodes:
            shown = "; ".join(unmatched[:3])
            raise ConfigError(
                f"{file} does not belong to the network in {loaded.path}: none of its {len(unmatched)} layers was "
                f"found in it ({shown}). Give the file of the network as it was when the model was exported"
            )
        progress.warn(f"{file} adds no statistics beyond those in {loaded.path}")
    return KnownStatistics(
        statistics=join_recovered(loaded.model, own.statistics, recovered),
        from_nodes=own.from_nodes,
        file=file if recovered.found else None,
        matched=tuple(f"{one.former.node}: {one.how}" for one in recovered.found),
        unmatched=unmatched,
    )


def _count(number: int) -> str:
    return f"{number} BatchNormalization{'' if number == 1 else 's'}"
