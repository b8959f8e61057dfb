"""Size of the file and time of the compilation, told before anything is compiled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from backends.target import Target
from passes.analysis.count_work import Work
from passes.emit.emit import emitted_bytes, weight_bytes
from passes.plan import QuantizationPlan, WeightSite
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.inspection.usual_agreement import Usual

# Samples that compiling works on at the default effort, those held out included: of small and of large inputs.
_SAMPLES, _LEARNED_SAMPLES = (320, 80), (1280, 160)
_SMALL_IMAGE = 64 * 64

# Seconds for a million numbers that the float network writes, over all samples, at the default effort; fitted to the
# table of compile times in benchmarks/results/speed.md (two cores of a server; memory counts for more than
# multiplications do). On the four models with batch normalisation there and in accuracy.md: 0.75 to 1.2 of what was
# measured.
_START = 6.0
_CLOSED_FORMS, _SYNTHESIS = 0.03, 0.07
_LEARNED_CLOSED_FORMS, _LEARNED_SYNTHESIS, _LEARNING, _MOST_LEARNING = 0.02, 0.03, 0.07, 400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What compiling with so many bits of weights would come to, activations in 8 bits.

    Attributes:
        bits: of weights.
        bytes: of the file, nearly.
        share: of the float file's bytes, or of its parameters' where it does not hold them.
        seconds: at the default effort on two cores; half and twice as much are likely.
        usual: agreement with the float model that classifiers of this kind kept; None where the outputs are no scores.

    """

    bits: int
    bytes: int
    share: float
    seconds: float
    usual: Usual | None


def estimated_bytes(model: ir.Model, plans: Mapping[int, QuantizationPlan], target: Target) -> dict[int, int]:
    """Bytes of the files that plans make of a folded float model, from the sizes of its weights alone.

    Channels of zeros that are added for the sake of speed are not counted; there are few in networks that are not tiny.

    One plan is carried out on a copy whose weights are one number per channel, which takes no time; what the other
    numbers take is added, for every plan.

    Args:
        model: not changed.
        plans: of the same sites, by bits of weights.
        target: says how weights are stored.

    """
    widest = plans[max(plans)]
    copy, counts = model.clone(), {}
    frame = 0
    for number, site in enumerate(widest.weights):
        value = copy.graph.initializers[site.initializer]
        assert value.const_value is not None
        sizes = value.const_value.shape.numpy()
        small = tuple(size if axis == site.axis else 1 for axis, size in enumerate(sizes))
        # No two weights may be equal, as equal constants are stored once.
        values = np.linspace(1.0, 2.0 + number, prod(small), dtype=np.float32).reshape(small)
        value.const_value, value.shape = ir.Tensor(values, name=value.name), ir.Shape(small)
        counts[site.initializer] = prod(sizes)
        frame -= _stored(site, prod(small), target)
    frame += emitted_bytes(copy, widest, target)
    return {
        bits: frame + sum(_stored(site, counts[site.initializer], target) for site in plan.weights)
        for bits, plan in plans.items()
    }


def _stored(site: WeightSite, count: int, target: Target) -> int:
    return weight_bytes(count, site.number_format.bits, target)


def estimated_seconds(work: Work, inputs: Sequence[InputSpec], *, bits: int, synthesized: bool) -> float:
    """Seconds that compiling takes at the default effort on two cores, within a factor of two.

    Args:
        work: of one sample.
        inputs: of the network.
        bits: of weights; below 8 there is learning.
        synthesized: data are optimised against statistics, not only drawn.

    """
    millions = sample_count(inputs, learned=bits < 8) * work.elements / 1e6
    if bits >= 8:
        return _START + millions * (_CLOSED_FORMS + (_SYNTHESIS if synthesized else 0.0))
    shared = _LEARNED_CLOSED_FORMS + (_LEARNED_SYNTHESIS if synthesized else 0.0)
    return _START + millions * shared + min(millions * _LEARNING, _MOST_LEARNING)


def sample_count(inputs: Sequence[InputSpec], *, learned: bool) -> int:
    """Count the samples that compiling makes at the default effort, those held out included."""
    image = next((spec for spec in inputs if spec.is_image), None)
    is_small = image is None or int(image.shape[2] or 1) * int(image.shape[3] or 1) <= _SMALL_IMAGE
    small, large = _LEARNED_SAMPLES if learned else _SAMPLES
    return small if is_small else large
