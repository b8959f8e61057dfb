"""Graph passes: each reads or rewrites an ``onnx_ir.Model``, and knows neither torch nor a runtime.

Imports only go down: this package may use ``backends``, and nothing of ``zsq_compile``.
"""

from passes.add_missing_bias import AddMissingBias
from passes.checks import Door, IllegalGraphError, check
from passes.emit import emit
from passes.fold_batchnorm import FoldBatchNorm
from passes.harvest_batchnorm import BatchNorm, BatchNormStatistics, folded_advice, harvest_batchnorm
from passes.insert_qdq import InsertQdq
from passes.match_checkpoint import match_checkpoint
from passes.normalize import normalize
from passes.pack_digits import PackDigits
from passes.pack_weights import PackWeights
from passes.pipeline import Outcome
from passes.place_quantizers import place_quantizers
from passes.place_statistics import place_statistics
from passes.plan import ActivationSite, QuantizationPlan, Refusal, Scale, WeightSite

__all__ = [
    "ActivationSite",
    "AddMissingBias",
    "BatchNorm",
    "BatchNormStatistics",
    "Door",
    "FoldBatchNorm",
    "IllegalGraphError",
    "InsertQdq",
    "Outcome",
    "PackDigits",
    "PackWeights",
    "QuantizationPlan",
    "Refusal",
    "Scale",
    "WeightSite",
    "check",
    "emit",
    "folded_advice",
    "harvest_batchnorm",
    "match_checkpoint",
    "normalize",
    "place_quantizers",
    "place_statistics",
]
