"""What share of decisions networks keep when they are compiled: told before the job, from networks that were measured.

The figures are agreements with the float model on real images in benchmarks/results/lowbit.md and folded.md (default
options, no data), on the scale of log-odds, where networks differ about evenly. Depthwise convolutions are what decides
at 4 bits. Nothing of the network itself is run, so the interval is that of a stranger of its kind.
"""

from dataclasses import dataclass

import onnx_ir as ir

from zsq_compile.metrics import Z90, Output, logistic, score_output


@dataclass(frozen=True, kw_only=True, slots=True)
class Usual:
    """A share of common decisions, 0 to 1, and the interval that holds it for nine networks in ten."""

    agreement: float
    low: float
    high: float


# (bits, depthwise): mean and deviation of the log-odds. ResNet-20, -56 and -8 with statistics and folded kept 98.4 to
# 99.6 % at 8 bits and 95.6 to 99.1 % at 4; MobileNetV1 0.75 kept 97.75 to 98.3 and 87.25 to 89.75 %. It is the only one
# with depthwise convolutions, so the deviations there are guesses on the wide side.
_MEASURED = {(8, False): (4.7, 0.6), (4, False): (4.0, 0.65), (8, True): (3.9, 0.7), (4, True): (2.1, 0.9)}


def usual_agreement(bits: int, *, depthwise: bool) -> Usual:
    """Agreement with the float model that classifiers kept, for weights of 8 or 4 bits and activations of 8."""
    middle, deviation = _MEASURED[bits, depthwise]
    low, agreement, high = (logistic(middle + side * Z90 * deviation) for side in (-1.0, 0.0, 1.0))
    return Usual(agreement=agreement, low=low, high=high)


def has_depthwise(model: ir.Model) -> bool:
    """Tell whether a model has a convolution with a group for each input channel, and more than one."""
    for node in model.graph:
        shape = node.inputs[1].shape if node.op_type == "Conv" and node.inputs[1] is not None else None
        if node.attributes.get_int("group", 1) > 1 and shape is not None and shape[1] == 1:
            return True
    return False


def may_classify(model: ir.Model) -> bool:
    """Whether an output has one row of class scores for each sample, as far as shapes are known."""
    outputs = {
        str(value.name): Output(
            tuple(size if isinstance(size, int) else 0 for size in value.shape),
            value.dtype is not None and value.dtype.is_floating_point(),
        )
        for value in model.graph.outputs
        if value.shape is not None
    }
    return score_output(outputs) is not None
