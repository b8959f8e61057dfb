"""Where statistics of the training data are looked for: in the model's own nodes, then in a file beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from passes.batchnorm.harvest_batchnorm import BatchNormStatistics, harvest_batchnorm
from passes.batchnorm.match_checkpoint import match_checkpoint
from passes.batchnorm.place_statistics import place_statistics
from passes.batchnorm.recovered import Recovered, join_recovered
from passes.batchnorm.weighted_layers import folded_layers
from zsq_compile.batchnorm.statistics_file import read_statistics
from zsq_compile.errors import ConfigError
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


def search_statistics(
    model: ir.Model, place: Path, *, checkpoint: Path | None, bn_stats: Path | None, progress: Progress
) -> KnownStatistics:
    """Harvest a model in normal form, and look into the file that was given; without one nothing imports torch.

    Args:
        model: the network.
        place: its file, for words.
        checkpoint: trained tensors, or None.
        bn_stats: a file of ``harvest``, or None.
        progress: is told where a file is not needed, or tells nothing.

    Raises:
        ConfigError: the file cannot be read, or belongs to another network.

    """
    harvested = harvest_batchnorm(model)
    path = checkpoint or bn_stats
    if path is None:
        return KnownStatistics(statistics=harvested, from_nodes=len(harvested.entries))
    if not folded_layers(model):
        progress.warn(f"{path} is not needed: every layer of {place} that could tell has its BatchNormalization still")
        return KnownStatistics(statistics=harvested, from_nodes=len(harvested.entries))
    if checkpoint is not None:
        from zsq_compile.batchnorm.checkpoint import read_checkpoint

        recovered, kind = match_checkpoint(model, read_checkpoint(Path(path))), "checkpoint "
    else:
        recovered, kind = place_statistics(model, read_statistics(Path(path)).norms), ""
    return _joined(model, place, harvested, recovered, f"{kind}{Path(path).name}", progress)


def _joined(
    model: ir.Model,
    place: Path,
    harvested: BatchNormStatistics,
    recovered: Recovered,
    source: str,
    progress: Progress,
) -> KnownStatistics:
    unmatched = tuple(f"{one.where} ({one.op_type}): {one.reason}" for one in recovered.refusals)
    if not recovered.found:
        if not harvested.entries:
            shown = "; ".join(unmatched[:3])
            raise ConfigError(
                f"{source} is not of the network in {place}: not one of its {len(unmatched)} layers was found in "
                f"it ({shown}). Give the file of this very network, as it was when the model was exported"
            )
        progress.warn(f"{source} tells nothing that the nodes of {place} do not tell")
        return KnownStatistics(statistics=harvested, from_nodes=len(harvested.entries), unmatched=unmatched)
    return KnownStatistics(
        statistics=join_recovered(model, harvested, recovered),
        from_nodes=len(harvested.entries),
        file=source,
        matched=tuple(f"{one.former.node}: {one.how}" for one in recovered.found),
        unmatched=unmatched,
    )


def _count(number: int) -> str:
    return f"{number} BatchNormalization{'' if number == 1 else 's'}"
