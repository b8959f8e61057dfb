"""BatchNormalizations that are no longer in a graph, joined with those that are."""

from dataclasses import dataclass, replace

import onnx_ir as ir

from passes.batchnorm.behind_batchnorm import entry_behind
from passes.batchnorm.harvest_batchnorm import BatchNorm, BatchNormStatistics, distrust
from passes.plan import Refusal

_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recovery:
    """One BatchNormalization that was folded into a layer.

    Attributes:
        layer: the node that it was folded into.
        former: what it was. Its ``node`` is the layer's name, its ``output`` the value that the layer now makes; the
            value that it read is gone, so ``input`` is empty.
        how: what it was found by, in words.

    """

    layer: ir.Node
    former: BatchNorm
    how: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recovered:
    """All that was found again, in the order of the graph, and for each layer that was not the reason."""

    found: tuple[Recovery, ...]
    refusals: tuple[Refusal, ...]


def joined(model: ir.Model, harvested: BatchNormStatistics, recovered: Recovered) -> BatchNormStatistics:
    """Add what was recovered to what the nodes of a model tell.

    The new entries tell of the values behind the former BatchNormalizations: see ``entry_behind``. Those whose figures
    cannot be those of a trained network count as degenerate, as in ``harvest_batchnorm``.
    """
    place = {node.name: index for index, node in enumerate(model.graph)}
    entries = [entry_behind(one.former, one.former.output) for one in recovered.found]
    pairs = zip(recovered.found, entries, strict=True)
    odd = {entry.node: doubt for one, entry in pairs if (doubt := _doubt(one, entry)) is not None}
    convolutions = harvested.layer_kind == "convolutions"
    covered = sum((one.layer.op_type in _CONVOLUTIONS) == convolutions for one in recovered.found)
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


def _doubt(recovery: Recovery, entry: BatchNorm) -> str | None:
    """Why an entry must not be matched, or None."""
    reason = distrust(recovery.former, recovery.layer)
    return "none of its channels varies behind it" if reason is None and entry.dead.all() else reason
