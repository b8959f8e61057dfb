"""Estimates before compiling: size of the file, time of the compilation, and agreement that similar networks keep.

The agreements are those with the float model on real images in benchmarks/results/lowbit.md and folded.md (default
options, no data), on the scale of log-odds, where networks differ about evenly. At 4 bits depthwise convolutions
decide. Nothing of the network itself is run, so the interval is for an unseen network of this class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from backends.target import Target
from passes.analysis.count_work import Work
from passes.emit.emit import emitted_bytes, weight_bytes
from passes.plan import QuantizationPlan
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.metrics import Z90, logistic

# Samples that compiling makes at the default effort, held-out ones included: of small and of large inputs.
_SAMPLES, _LEARNED_SAMPLES = (320, 80), (1280, 160)
_SMALL_IMAGE = 64 * 64

# Seconds for a million elements that the float network writes, over all samples, at the default effort; fitted to the
# table of compile times in benchmarks/results/speed.md (two cores of a server; memory counts for more than
# multiplications do). On the four models with batch normalisation there and in accuracy.md: 0.75 to 1.2 of what was
# measured.
_START = 6.0
_CLOSED_FORMS, _SYNTHESIS = 0.03, 0.07
_LEARNED_CLOSED_FORMS, _LEARNED_SYNTHESIS, _LEARNING, _MOST_LEARNING = 0.02, 0.03, 0.07, 400.0


# (bits, depthwise): mean and standard deviation of the log-odds of agreement. ResNet-20, -56 and -8 with statistics and
# folded kept 98.4 to 99.6 % at 8 bits and 95.6 to 99.1 % at 4; MobileNetV1 0.75 kept 97.75 to 98.3 and 87.25 to
# 89.75 %. It is the only one with depthwise convolutions, so the deviations there are guesses on the wide side.
_AGREEMENT = {(8, False): (4.7, 0.6), (4, False): (4.0, 0.65), (8, True): (3.9, 0.7), (4, True): (2.1, 0.9)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Usual:
    """Agreement, 0 to 1, that networks of a class kept, and the interval that holds it for nine in ten."""

    agreement: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What compiling with so many bits of weights would result in, activations in 8 bits.

    Attributes:
        bits: of weights.
        bytes: of the file, about.
        share: of the float file's bytes, or of its parameters' where it does not hold them.
        seconds: at the default effort on two cores; half and twice as much are likely.
        usual: agreement that classifiers of this class kept; None where it is no classifier.

    """

    bits: int
    bytes: int
    share: float
    seconds: float
    usual: Usual | None


def estimate_bytes(model: ir.Model, plans: Mapping[int, QuantizationPlan], target: Target) -> dict[int, int]:
    """Estimate the bytes of the files that plans make of a folded float model.

    One plan is carried out on a copy whose weights are one number per channel, which takes no time; the bytes of the
    other numbers are added, for every plan. Channels of zeros that are added for speed are not counted; there are few
    in networks that are not tiny.

    Args:
        model: not changed.
        plans: of the same sites, by bits of weights.
        target: says how weights are stored.

    """
    widest = plans[max(plans)]
    copy, counts = model.clone(), {}
    frame = 0
    for number, (site, *_) in enumerate(widest.sites_by_weight().values()):
        value = copy.graph.initializers[site.initializer]
        assert value.const_value is not None
        sizes = value.const_value.shape.numpy()
        small = tuple(size if axis == site.axis else 1 for axis, size in enumerate(sizes))
        # No two weights may be equal, as equal constants are stored once.
        values = np.linspace(1.0, 2.0 + number, prod(small), dtype=np.float32).reshape(small)
        value.const_value, value.shape = ir.Tensor(values, name=value.name), ir.Shape(small)
        counts[site.initializer] = prod(sizes)
        frame -= weight_bytes(prod(small), site.number_format.bits, target)
    for one in (site for site in widest.stored if site.tied is None):
        constant = copy.graph.initializers[one.initializer].const_value
        assert constant is not None
        counts[one.initializer] = constant.size
        frame -= weight_bytes(constant.size, one.number_format.bits, target)
    frame += emitted_bytes(copy, widest, target)
    return {
        bits: frame + sum(weight_bytes(counts[name], width, target) for name, width in plan.bits_by_initializer.items())
        for bits, plan in plans.items()
    }


def estimate_seconds(work: Work, inputs: Sequence[InputSpec], *, bits: int, synthesized: bool) -> float:
    """Estimate the seconds of compiling at the default effort on two cores, within a factor of two.

    Args:
        work: of one sample.
        inputs: of the network.
        bits: of weights; below 8 there is learning.
        synthesized: data are optimised against statistics, not only drawn.

    """
    millions = count_samples(inputs, learned=bits < 8) * work.elements / 1e6
    if bits >= 8:
        return _START + millions * (_CLOSED_FORMS + (_SYNTHESIS if synthesized else 0.0))
    shared = _LEARNED_CLOSED_FORMS + (_LEARNED_SYNTHESIS if synthesized else 0.0)
    return _START + millions * shared + min(millions * _LEARNING, _MOST_LEARNING)


def count_samples(inputs: Sequence[InputSpec], *, learned: bool) -> int:
    """Count the samples that compiling makes at the default effort, held-out ones included."""
    image = next((spec for spec in inputs if spec.is_image), None)
    is_small = image is None or image.height * image.width <= _SMALL_IMAGE
    small, large = _LEARNED_SAMPLES if learned else _SAMPLES
    return small if is_small else large


def usual_agreement(bits: int, *, depthwise: bool) -> Usual:
    """Estimate the agreement of a classifier with its float model, for weights of 8 or 4 bits and activations of 8."""
    middle, deviation = _AGREEMENT[bits, depthwise]
    low, agreement, high = (logistic(middle + side * Z90 * deviation) for side in (-1.0, 0.0, 1.0))
    return Usual(agreement=agreement, low=low, high=high)


def has_depthwise(model: ir.Model) -> bool:
    """Whether a model has a convolution with a group for each input channel, and more than one."""
    for node in model.graph:
        shape = node.inputs[1].shape if node.op_type == "Conv" and node.inputs[1] is not None else None
        if node.attributes.get_int("group", 1) > 1 and shape is not None and shape[1] == 1:
            return True
    return False
