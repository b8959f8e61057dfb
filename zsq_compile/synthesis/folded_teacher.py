"""A teacher whose BatchNormalizations are folded, and the same statistics read behind them instead of before.

Distances in units of the variance are the same on both sides of a BatchNormalization
(``passes.batchnorm.behind_batchnorm`` has the formulas), so nothing is lost by looking at what it makes, which a layer
with folded weights makes by itself: four passes over memory less for every such layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from passes.batchnorm.behind_batchnorm import entry_behind, measurable_behind
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.differentiable.module import TorchGraph


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoldedTeacher:
    """A rewritten teacher that computes what the first one does, and the ``layers`` to match on it."""

    teacher: TorchGraph
    layers: tuple[BatchNorm, ...]


def fold_teacher(teacher: TorchGraph, layers: Sequence[BatchNorm]) -> FoldedTeacher:
    """Fold a copy of the teacher's model; layers that cannot be folded, or not measured behind, stay as they are.

    So does a layer in front of another BatchNormalization, which would be folded into the same weights. Hence values
    behind BatchNormalizations keep their names, and only those that a folded one read are gone.
    """
    model = teacher.model.clone()
    normalised = {
        node.inputs[0].name for node in model.graph if node.op_type == "BatchNormalization" and node.inputs[0]
    }
    kept = [layer.node for layer in layers if layer.output in normalised or not _is_plain(layer)]
    FoldBatchNorm(keep=kept).call(model)
    left = {value.name for node in model.graph for value in node.outputs}
    return FoldedTeacher(
        teacher=TorchGraph(model, device=teacher.device),
        layers=tuple(layer if layer.input in left else entry_behind(layer, layer.output) for layer in layers),
    )


def _is_plain(layer: BatchNorm) -> bool:
    """Tell whether every channel that counts still varies enough behind the normalisation."""
    return bool(measurable_behind(layer)[~layer.dead].all())
