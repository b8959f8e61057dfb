"""The last step before a QDQ graph is written: weights packed as the target allows, checked, and slim."""

import onnx_ir as ir

from backends.target import Target
from passes.checks import Door, check
from passes.pack_digits import PackDigits
from passes.pack_weights import PackWeights
from passes.plan import QuantizationPlan
from passes.slim import Slim


def emit(model: ir.Model, plan: QuantizationPlan, target: Target) -> None:
    """Bring a QDQ graph in place into the form in which it is written.

    Args:
        model: made by inserting the plan.
        plan: tells how many bits each weight's codes have.
        target: says which widths are stored packed.

    Raises:
        IllegalGraphError: the graph is not what a runtime can fuse.

    """
    bits = {f"{site.initializer}_quantized": site.number_format.bits for site in plan.weights}
    PackDigits({name: width for name, width in bits.items() if width <= target.dense_weight_bits})(model)
    PackWeights(frozenset(name for name, width in bits.items() if width <= target.packed_weight_bits))(model)
    check(model, Door.EMITTED)
    Slim()(model)
