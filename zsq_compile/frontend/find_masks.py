"""Which number in a mask hides nothing: told by what the graph does with it up to where it meets what it masks.

    Add(scores, mask)                            0 hides nothing
    Add(scores, Mul(Sub(1, mask), -1e38))        1 does
    Where(Not(Cast(mask)), -inf, scores)         1 does
    Mul(hidden, Cast(mask))                      1 does

A mask filled with noise hides everything or nothing of it at random, and what is behind the Softmax may be no number.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.operators import DATA_MOVEMENT
from passes.surgery import is_standard
from zsq_compile.frontend.trace_input import constant_of

_CANDIDATES = (0.0, 1.0)
_COMPUTED = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Min": np.minimum,
    "Max": np.maximum,
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
}
_LOGIC = ("And", "Or", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Min", "Max")
_SCORING = (*DATA_MOVEMENT, "Add", "Sub", "Mul", "Div", "Where", "Sum", "Max", "Min", "Clip", "Cast")
_FORBIDDING = -1e3  # scores from here down are as good as minus infinity
_MOST_STEPS = 256

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Masking:
    """What an input masks: the number that hides nothing, and whether what it meets are scores of attention."""

    neutral: float
    attention: bool


def find_masking(value: ir.Value) -> Masking | None:
    """Follow an input to where it meets what it masks; None where it masks nothing.

    Of several such places, one where it meets scores of attention decides.
    """
    numbers = {value: np.array(_CANDIDATES)}
    waiting, gate = deque([value]), None
    while waiting and len(numbers) < _MOST_STEPS:
        source = waiting.popleft()
        for node, place in ((use.node, use.idx) for use in source.uses()):
            if is_standard(node, "Attention") and place == 3:
                is_logical = source.dtype == ir.DataType.BOOL
                return Masking(neutral=_nearest(numbers[source], 1.0 if is_logical else 0.0), attention=True)
            met = _meet(node, place, numbers)
            if isinstance(met, float):
                found = Masking(neutral=met, attention=leads_to_softmax(node.outputs[0]))
                if found.attention:
                    return found
                # what is added to anything but scores hides nothing of it
                gate = gate or (None if is_standard(node, "Add", "Sub") else found)
            elif met is not None and node.outputs[0] not in numbers:
                numbers |= dict.fromkeys(node.outputs, met)
                waiting.extend(node.outputs)
    return gate


def leads_to_softmax(value: ir.Value) -> bool:
    """Whether a value becomes scores of a Softmax by being moved, masked and rescaled only."""
    waiting, seen = deque([value]), {value}
    while waiting:
        for use in waiting.popleft().uses():
            if is_standard(use.node, "Softmax", "LogSoftmax"):
                return True
            if is_standard(use.node, *_SCORING):
                fresh = [one for one in use.node.outputs if one not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
    return False


def _meet(node: ir.Node, place: int, numbers: dict[ir.Value, Numbers]) -> Numbers | float | None:
    """Return what a node makes of the candidates; the neutral one where it meets what is masked; None where it ends."""
    now = numbers[node.inputs[place]]  # type: ignore[index]
    if is_standard(node, "Cast"):
        to_bool = node.attributes.get_int("to", 0) == ir.DataType.BOOL
        return _truth(now) if to_bool else now
    if is_standard(node, *DATA_MOVEMENT):
        return now if place == 0 else None
    if is_standard(node, "Not"):
        return 1.0 - _truth(now)
    if is_standard(node, "Neg"):
        return -now
    if is_standard(node, "Where"):
        return _choose(node, place, now)
    if not is_standard(node, *_COMPUTED) or len(node.inputs) != 2:
        return None
    other = node.inputs[1 - place]
    if other in numbers:
        known: Numbers | float | None = numbers[other]
    else:
        known = _uniform(other)
    if known is None:
        if is_standard(node, *_LOGIC) or constant_of(other) is not None:
            return now  # what else is hidden, such as the future
        return _nearest(now, 1.0 if is_standard(node, "Mul", "Div") else 0.0)
    operands = (now, known) if place == 0 else (known, now)
    with np.errstate(all="ignore"):
        return np.asarray(_COMPUTED[node.op_type](*operands), np.float64)


def _choose(node: ir.Node, place: int, now: Numbers) -> Numbers | float | None:
    if place != 0:
        return now
    kept, other = _uniform(node.inputs[1]), _uniform(node.inputs[2])
    if kept is not None and other is not None:
        return np.where(now != 0.0, kept, other)
    if other is not None and (other <= _FORBIDDING or other == 0.0):
        return _nearest(_truth(now), 1.0)
    if kept is not None and (kept <= _FORBIDDING or kept == 0.0):
        return _nearest(_truth(now), 0.0)
    return None


def _truth(numbers: Numbers) -> Numbers:
    return np.asarray(numbers != 0.0, np.float64)


def _nearest(numbers: Numbers, unchanged: float) -> float:
    """Return the candidate whose number is nearest to what changes nothing."""
    return _CANDIDATES[int(np.abs(numbers - unchanged).argmin())]


def _uniform(value: ir.Value | None) -> float | None:
    """Return the number of a constant whose elements are all alike."""
    array = constant_of(value)
    if array is None or array.size == 0 or not (array == array.reshape(-1)[0]).all():
        return None
    return float(array.reshape(-1)[0])
