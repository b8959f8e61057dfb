"""Which inputs of a graph are masks of attention, and which number in them hides nothing.

    Add(scores, mask)                        0 hides nothing
    Add(scores, Mul(Sub(1, mask), -1e38))    1 does

A mask filled with noise hides everything or nothing of it at random, and what is behind the Softmax may be no number.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from passes.operators import DATA_MOVEMENT
from passes.quantize.float_regions import score_region
from passes.surgery import is_standard
from zsq_compile.data.input_spec import InputSpec

_CANDIDATES = (0.0, 1.0)
_COMPUTED = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


def find_masks(model: ir.Model, inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the specs of the inputs of a normalized model, those of float masks with the number that hides nothing."""
    masks = score_region(model.graph)
    values = {value.name: value for value in model.graph.inputs}
    return tuple(
        replace(spec, neutral=_neutral(values[spec.name]))
        if spec.name in masks and np.issubdtype(spec.dtype, np.floating)
        else spec
        for spec in inputs
    )


def _neutral(value: ir.Value) -> float:
    """Follow a mask up to where it meets the scores: the candidate that is nearest to changing nothing there."""
    numbers = np.array(_CANDIDATES)
    while True:
        readers = ((use.node, use.idx) for use in value.uses())
        node, position = next(reader for reader in readers if not is_standard(reader[0], "Shape", "Size"))
        if not is_standard(node, *DATA_MOVEMENT):
            if not is_standard(node, *_COMPUTED):
                return _CANDIDATES[0]
            other = constant_value(node.inputs[1 - position])
            if other is None:
                unchanged = 1.0 if is_standard(node, "Mul", "Div") else 0.0
                return _CANDIDATES[int(np.abs(numbers - unchanged).argmin())]
            if other.size != 1:
                return _CANDIDATES[0]
            operands = (numbers, other.item()) if position == 0 else (other.item(), numbers)
            with np.errstate(all="ignore"):
                numbers = _COMPUTED[node.op_type](*operands)
        value = node.outputs[0]
