"""Follow an input into the graph, through what leaves its elements what they are, to what makes something of it."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.operators import CONVOLUTIONS, DATA_MOVEMENT, RECURRENT
from passes.surgery import is_standard

_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean")
_BY_ELEMENT = (
    *("Cast", "CastLike", "Neg", "Abs", "Sqrt", "Log", "Exp", "Floor", "Ceil", "Round", "Clip", "Reciprocal", "Sign"),
    *("QuantizeLinear", "DequantizeLinear", "Dropout", "Relu", "Tanh", "Sigmoid", "Softplus"),
)
_JOINED = ("Pad", "Concat")
_MOST_READINGS = 512
_LAYERS = (*CONVOLUTIONS, "Gemm", "MatMul", *RECURRENT)
_NORMS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")
_TRANSFORMS = ("STFT", "DFT", "MelWeightMatrix")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A node that reads an input, or what was made of it: which value, and at which place."""

    node: ir.Node
    place: int
    value: ir.Value

    def other(self) -> ir.Value | None:
        """Return the other operand of a node with two."""
        return self.node.inputs[1 - self.place] if len(self.node.inputs) == 2 else None


def trace(value: ir.Value, *, through_computed: bool = False) -> Iterator[Reading]:
    """Yield what reads a value, the nearest first, past moves, casts and arithmetic with constants.

    Args:
        value: of the graph.
        through_computed: also past arithmetic with values that were computed, as in a normalisation by the sample's own
            mean, past padding and joining.

    """
    waiting, seen = deque([value]), {value}
    count = 0
    while waiting and count < _MOST_READINGS:
        source = waiting.popleft()
        for use in source.uses():
            count += 1
            reading = Reading(node=use.node, place=use.idx, value=source)
            yield reading
            if _passes(reading, through_computed=through_computed):
                fresh = [one for one in use.node.outputs if one not in seen]
                seen.update(fresh)
                waiting.extend(fresh)


def _passes(reading: Reading, *, through_computed: bool) -> bool:
    node = reading.node
    if is_standard(node, *_BY_ELEMENT, *DATA_MOVEMENT):
        return reading.place == 0
    if is_standard(node, *_ARITHMETIC):
        return through_computed or all(
            one is None or one is reading.value or one.const_value is not None for one in node.inputs
        )
    return through_computed and is_standard(node, *_JOINED)


def constant_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the numbers of a constant of the graph; None of anything else."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def first_layers(value: ir.Value) -> list[Reading]:
    """Return what computes with an input first: layers with constant weights, normalisations, Fourier transforms."""
    found = []
    for reading in trace(value, through_computed=True):
        node = reading.node
        if reading.place != 0:
            continue
        weighted = is_standard(node, *_LAYERS) and constant_of(node.inputs[1]) is not None
        if weighted or is_standard(node, *_NORMS, *_TRANSFORMS):
            found.append(reading)
    return found


def weight_shape(node: ir.Node) -> tuple[int, ...]:
    """Shape of a layer's constant weight."""
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    return tuple(int(size) for size in weight.const_value.shape.numpy())


def vector_axis(reading: Reading) -> int | None:
    """Axis of the value that a layer reads which it takes for the numbers of one vector, from the front."""
    rank = None if reading.value.shape is None else len(reading.value.shape)
    if is_standard(reading.node, *CONVOLUTIONS, "BatchNormalization", "InstanceNormalization"):
        return 1
    if is_standard(reading.node, "Gemm"):
        return 0 if reading.node.attributes.get_int("transA", 0) else 1
    return None if rank is None else rank - 1
