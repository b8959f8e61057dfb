"""Prepare a float model for quantization: BatchNormalization folded, a bias in every layer, free names."""

import numpy as np
import onnx_ir as ir

from backends.target import Target
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.fold_forward import ConvolveBatchNorm, FoldForward
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.batchnorm.merge_branches import MergeBranches
from passes.checks import GraphInvariant, check
from passes.normalize.infer_shapes import InferShapes
from passes.normalize.share_weights import ShareWeights
from passes.quantize.absorb_biases import ChannelMoments
from passes.quantize.add_missing_bias import AddMissingBias
from passes.quantize.equalize_channels import EqualizeChannels
from passes.quantize.free_names import FreeNames
from passes.quantize.write_in_parts import WriteInParts


def prepare_float(
    model: ir.Model,
    statistics: BatchNormStatistics,
    equalize: bool,
    *,
    merge: bool = True,
    target: Target | None = None,
) -> ir.Model:
    """Return a copy of a normalized model that computes the same, and is fit to be quantized.

    Args:
        model: not changed.
        statistics: harvested from it.
        equalize: even the channels out between layers.
        merge: let parallel convolutions be one.
        target: write what it runs slowly in other operators; None leaves all operators.

    """
    copy = model.clone()
    for step in (FoldBatchNorm(), FoldForward(), ConvolveBatchNorm(), FoldBatchNorm()):
        step(copy)
    if merge:
        MergeBranches()(copy)
    AddMissingBias()(copy)
    ShareWeights()(copy)  # BatchNormalizations that are equal have made equal copies of a shared weight
    if equalize:
        moments = {
            entry.output: ChannelMoments(
                mean=entry.shift.astype(np.float64), deviation=np.abs(entry.scale.astype(np.float64))
            )
            for entry in statistics.usable
        }
        EqualizeChannels(moments)(copy)
    if target is not None and WriteInParts(target)(copy).modified:
        InferShapes()(copy)
    FreeNames()(copy)
    check(copy, GraphInvariant.FOLDED)
    return copy
