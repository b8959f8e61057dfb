"""From a float model as it was loaded to the one that is quantized: no BatchNormalization, a bias in every layer."""

import numpy as np
import onnx_ir as ir

from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.batchnorm.harvest_batchnorm import BatchNormStatistics
from passes.checks import Door, check
from passes.quantize.absorb_biases import ChannelMoments
from passes.quantize.add_missing_bias import AddMissingBias
from passes.quantize.equalize_channels import EqualizeChannels


def folded(model: ir.Model, statistics: BatchNormStatistics, equalize: bool) -> ir.Model:
    """Copy a model with BatchNormalization folded and a bias in every layer that can have one."""
    copy = model.clone()
    FoldBatchNorm()(copy)
    AddMissingBias()(copy)
    if equalize:
        moments = {
            entry.output: ChannelMoments(
                mean=entry.shift.astype(np.float64), deviation=np.abs(entry.scale.astype(np.float64))
            )
            for entry in statistics.usable
        }
        EqualizeChannels(moments)(copy)
    check(copy, Door.FOLDED)
    return copy
