"""A teacher whose BatchNormalizations are folded, with the same statistics measured behind them instead of before.

Distances in units of the variance are the same on both sides of a BatchNormalization
(``passes.batchnorm.behind_batchnorm`` has the formulas), so nothing is lost by measuring its output, which a layer with
folded weights computes by itself: four passes over memory less for every such layer.
"""

from collections.abc import Sequence

from passes.batchnorm.behind_batchnorm import entry_behind, measurable_behind
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.differentiable.module import TorchGraph


def fold_teacher(teacher: TorchGraph, layers: Sequence[BatchNorm]) -> tuple[TorchGraph, tuple[BatchNorm, ...]]:
    """Return an equivalent teacher with folded BatchNormalizations, and the layers to match on it.

    Kept are those that cannot be folded, or not measured behind, and those in front of another BatchNormalization,
    which would be folded into the same weights. Hence values behind BatchNormalizations keep their names, and only
    those that a folded one read are gone.
    """
    model = teacher.model.clone()
    normalised = {
        node.inputs[0].name for node in model.graph if node.op_type == "BatchNormalization" and node.inputs[0]
    }
    kept = [layer.node for layer in layers if layer.output in normalised or not _is_measurable(layer)]
    FoldBatchNorm(keep=kept).call(model)
    left = {value.name for node in model.graph for value in node.outputs}
    measured = tuple(layer if layer.input in left else entry_behind(layer, layer.output) for layer in layers)
    return TorchGraph(model, device=teacher.device), measured


def _is_measurable(layer: BatchNorm) -> bool:
    """Whether every channel that is not dead still varies enough behind the normalisation."""
    return bool(measurable_behind(layer)[~layer.dead].all())
