"""Graph passes: each reads or rewrites an ``onnx_ir.Model``, and knows neither torch nor a runtime.

Imports only go down: this package may use ``backends``, and nothing of ``zsq_compile``.
"""

from passes.fold_batchnorm import FoldBatchNorm
from passes.harvest_batchnorm import BatchNorm, BatchNormStatistics, folded_advice, harvest_batchnorm
from passes.normalize import normalize
from passes.pipeline import Outcome
from passes.plan import ActivationSite, QuantizationPlan, Refusal, Scale, WeightSite

__all__ = [
    "ActivationSite",
    "BatchNorm",
    "BatchNormStatistics",
    "FoldBatchNorm",
    "Outcome",
    "QuantizationPlan",
    "Refusal",
    "Scale",
    "WeightSite",
    "folded_advice",
    "harvest_batchnorm",
    "normalize",
]
