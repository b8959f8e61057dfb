"""BatchNormalizations that were folded away and recovered, and their statistics."""

from dataclasses import dataclass, replace

import onnx_ir as ir

from passes.batchnorm.behind_batchnorm import entry_behind
from passes.batchnorm.harvest_batchnorm import BatchNorm, BatchNormStatistics, find_degeneracy
from passes.operators import CONVOLUTIONS
from passes.plan import Refusal


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recovery:
    """One BatchNormalization that was folded into a layer.

    Attributes:
        layer: the node that it was folded into.
        former: the BatchNormalization. Its ``node`` is the layer's name, its ``output`` the output of the layer, its
            ``input`` empty.
        how: for the user, how it was found.

    """

    layer: ir.Node
    former: BatchNorm
    how: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recovered:
    """All recoveries, in graph order, and a refusal for each layer without one."""

    found: tuple[Recovery, ...]
    refusals: tuple[Refusal, ...]


def join_recovered(model: ir.Model, harvested: BatchNormStatistics, recovered: Recovered) -> BatchNormStatistics:
    """Add the recoveries, as entries of the layers' outputs (see ``entry_behind``), to the statistics of a model."""
    place = {node.name: index for index, node in enumerate(model.graph)}
    entries = [entry_behind(one.former, one.former.output) for one in recovered.found]
    pairs = zip(recovered.found, entries, strict=True)
    odd = {entry.node: reason for one, entry in pairs if (reason := _degeneracy(one, entry)) is not None}
    convolutions = harvested.layer_kind == "convolutions"
    covered = sum((one.layer.op_type in CONVOLUTIONS) == convolutions for one in recovered.found)
    return replace(
        harvested,
        entries=tuple(sorted((*harvested.entries, *entries), key=lambda entry: place.get(entry.node, 0))),
        refusals=(
            *harvested.refusals,
            *(Refusal(where=name, op_type="BatchNormalization", reason=reason) for name, reason in odd.items()),
        ),
        layers_covered=harvested.layers_covered + covered,
        degenerate=(*harvested.degenerate, *odd),
    )


def _degeneracy(recovery: Recovery, entry: BatchNorm) -> str | None:
    reason = find_degeneracy(recovery.former, recovery.layer)
    return "none of its channels varies behind it" if reason is None and entry.dead.all() else reason
