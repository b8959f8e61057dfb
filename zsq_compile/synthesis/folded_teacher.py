"""A teacher whose BatchNormalizations are folded, and the same statistics read behind them instead of before.

With input x of moments M and V, a BatchNormalization y = g (x - M) / sqrt(V + e) + s makes a value of mean s and
variance g² V / (V + e). Distances in units of the variance are the same on both sides, so nothing is lost by looking at
y, which a layer with folded weights makes by itself: four passes over memory less for every such layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from passes.fold_batchnorm import FoldBatchNorm
from passes.harvest_batchnorm import BatchNorm
from zsq_compile.differentiable.module import TorchGraph

Array = NDArray[np.float64]

# Of a channel's deviation behind the normalisation, in units of its mean: half precision keeps eight binary digits, and
# what varies less than a few of them beside a large constant could not be measured.
_SMALLEST_SHARE = 1.0 / 32.0


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
        layers=tuple(layer if layer.input in left else _behind(layer) for layer in layers),
    )


def _behind(layer: BatchNorm) -> BatchNorm:
    mean, variance = _moments(layer)
    return replace(layer, input=layer.output, mean=mean.astype(np.float32), variance=variance.astype(np.float32))


def _moments(layer: BatchNorm) -> tuple[Array, Array]:
    variance = layer.variance.astype(np.float64)
    squared = layer.scale.astype(np.float64) ** 2
    return layer.shift.astype(np.float64), squared * variance / (variance + layer.epsilon)


def _is_plain(layer: BatchNorm) -> bool:
    """Tell whether every channel that counts still varies enough behind the normalisation."""
    mean, variance = _moments(layer)
    alive = ~layer.dead
    return bool((np.sqrt(variance[alive]) > _SMALLEST_SHARE * np.maximum(np.abs(mean[alive]), 1e-3)).all())
