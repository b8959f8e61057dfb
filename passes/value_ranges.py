"""Bounds of values that follow from the graph alone."""

import math

import onnx_ir as ir

from passes.constants import constant_value
from passes.operators import DATA_MOVEMENT
from passes.surgery import is_standard

Bounds = tuple[float, float]

_ANYTHING: Bounds = (-math.inf, math.inf)
_MAKES: dict[str, Bounds] = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Exp": (0.0, math.inf),
    "Abs": (0.0, math.inf),
    "Sqrt": (0.0, math.inf),
}
_KEEPS = frozenset({*DATA_MOVEMENT, "MaxPool", "GlobalAveragePool", "GlobalMaxPool"})
_DEPTH = 64  # nodes to look back over: those further up a deep network hardly matter, and Python's stack is limited


def never_negative(value: ir.Value | None) -> bool:
    """Tell whether the graph shows that the value is 0 or more."""
    return bounds(value)[0] >= 0.0


def bounds(value: ir.Value | None) -> Bounds:
    """Lowest and highest number that the value can hold, but for roundings; infinite where nothing is known."""
    return _search(value, {}, _DEPTH)


def clip_limits(node: ir.Node) -> Bounds | None:
    """Limits of a Relu or Clip, infinite where it has none; None where they are computed, or for other nodes."""
    if is_standard(node, "Relu"):
        return 0.0, math.inf
    if not is_standard(node, "Clip"):
        return None
    limits = [node.attributes.get_float("min", -math.inf), node.attributes.get_float("max", math.inf)]
    for position, given in enumerate(node.inputs[1:3]):
        if given is not None:
            number = constant_value(given)
            if number is None or number.size != 1:
                return None
            limits[position] = float(number.item())
    return limits[0], limits[1]


def is_blend(resize: ir.Node) -> bool:
    """Tell whether every output of a Resize is a weighted mean of inputs: nearest and linear, without extrapolation."""
    mixes = resize.attributes.get_string("mode", "nearest") in ("nearest", "linear")
    return mixes and resize.attributes.get_string("coordinate_transformation_mode", "") != "tf_crop_and_resize"


def within(inner: Bounds, limits: Bounds) -> Bounds:
    """Bounds of what is clipped to limits, the lower one first, as Clip does."""
    low, high = limits
    return min(max(inner[0], low), high), min(max(inner[1], low), high)


def _search(value: ir.Value | None, known: dict[ir.Value, Bounds], depth: int) -> Bounds:
    node = value.producer() if value is not None else None
    if value is None or node is None or depth == 0:
        return _ANYTHING
    if value not in known:
        known[value] = _ANYTHING
        known[value] = _of_outputs(node, known, depth - 1)
    return known[value]


def _of_outputs(node: ir.Node, known: dict[ir.Value, Bounds], depth: int) -> Bounds:
    if not is_standard(node, node.op_type):
        return _ANYTHING
    if (limits := clip_limits(node)) is not None:
        return within(_search(node.inputs[0], known, depth), limits)
    if node.op_type in _MAKES:
        return _MAKES[node.op_type]
    if node.op_type in _KEEPS or (node.op_type in ("Resize", "Upsample") and is_blend(node)):
        return _search(node.inputs[0], known, depth)
    if node.op_type == "AveragePool":  # its padding may count as zeros
        low, high = _search(node.inputs[0], known, depth)
        return min(low, 0.0), max(high, 0.0)
    if node.op_type in ("Concat", "Max", "Min", "Add", "Mul"):
        return _joined(node.op_type, [_search(source, known, depth) for source in node.inputs])
    return _ANYTHING


def _joined(op_type: str, parts: list[Bounds]) -> Bounds:
    lows, highs = [low for low, _ in parts], [high for _, high in parts]
    if op_type == "Concat":
        return min(lows), max(highs)
    if op_type == "Max":
        return max(lows), max(highs)
    if op_type == "Min":
        return min(lows), min(highs)
    if op_type == "Add":
        return sum(lows), sum(highs)
    low, high = parts[0]
    for other in parts[1:]:
        corners = [_product(one, two) for one in (low, high) for two in other]
        low, high = min(corners), max(corners)
    return low, high


def _product(one: float, other: float) -> float:
    return 0.0 if one == 0.0 or other == 0.0 else one * other  # not nan where the other is infinite
