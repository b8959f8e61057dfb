"""What the graph alone says about the sign of a value."""

import onnx_ir as ir

from passes.fold_constants import constant_value
from passes.surgery import is_standard

_MAKES = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt")
_KEEPS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Flatten", "Reshape", "Transpose", "Squeeze")
_KEEPS_ALL = ("Add", "Mul", "Concat", "Max")


def never_negative(value: ir.Value | None) -> bool:
    """Tell whether the value comes from operators that never make a negative number.

    1. Relu, Sigmoid, Softmax, Exp and the like; Clip with a lower bound of at least 0.
    2. Poolings and moves of such a value; Add, Mul, Max and Concat of several.
    """
    return _search(value, {})


def _search(value: ir.Value | None, known: dict[ir.Value, bool]) -> bool:
    node = value.producer() if value is not None else None
    if value is None or node is None:
        return False
    if value not in known:
        known[value] = False
        known[value] = _judge(node, known)
    return known[value]


def _judge(node: ir.Node, known: dict[ir.Value, bool]) -> bool:
    if is_standard(node, "Clip"):
        low = constant_value(node.inputs[1]) if len(node.inputs) > 1 else None
        return low is not None and low.size == 1 and float(low.item()) >= 0.0
    if is_standard(node, *_KEEPS):
        return _search(node.inputs[0], known)
    if is_standard(node, *_KEEPS_ALL):
        return all(_search(source, known) for source in node.inputs)
    return is_standard(node, *_MAKES)
