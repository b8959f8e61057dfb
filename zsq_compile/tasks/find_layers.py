"""The layers that an output comes from, and the operators between it and them."""

import onnx_ir as ir

from passes.operators import RECURRENT
from passes.surgery import is_standard
from zsq_compile.tasks.find_stretches import Squash

SQUASHING: dict[str, Squash] = {
    "Sigmoid": "sigmoid",
    "HardSigmoid": "sigmoid",
    "Softmax": "softmax",
    "LogSoftmax": "log softmax",
    "Exp": "exp",
    "Relu": "positive",
    "Softplus": "positive",
    "Tanh": "tanh",
    "LpNormalization": "unit length",
}
"""What operators squash numbers to."""

PASSING = ("Identity", "Cast", "Dropout", "Clip", "Resize", "Upsample", "Pad", "Sqrt")
"""Operators whose output has the columns of their input."""

RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that sort the axes of a value anew."""

PICKING = ("Gather", "GatherElements", "GatherND", "TopK")
"""Operators that pick some places."""

ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "Neg", "Min", "Max", "Sum")
"""Operators that combine numbers."""


def tail_operators(value: ir.Value) -> frozenset[str]:
    """Return the operators between an output and the layers in front of it, along all paths."""
    found: set[str] = set()
    pending, seen = [value], set[ir.Value]()
    while pending:
        one = pending.pop()
        node = one.producer()
        if one in seen or node is None:
            continue
        seen.add(one)
        if is_layer(node):
            continue
        found.add(node.op_type)
        pending += [source for source in node.inputs if source is not None and source.const_value is None]
    return frozenset(found)


def last_layers(value: ir.Value) -> tuple[ir.Node, ...]:
    """Convolutions, products with constants, poolings and others that an output's numbers come from, nearest first."""
    found: dict[ir.Node, None] = {}
    pending, seen = [value], set[ir.Value]()
    while pending:
        one = pending.pop(0)
        node = one.producer()
        if one in seen or node is None:
            continue
        seen.add(one)
        if is_layer(node):
            found.setdefault(node)
        else:
            pending += [source for source in node.inputs if source is not None and source.const_value is None]
    return tuple(found)


def sizes_of(value: ir.Value) -> tuple[int | None, ...] | None:
    """Shape of a value, None for open sizes; None where even the rank is unknown."""
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape)


def is_layer(node: ir.Node) -> bool:
    """Whether an operator computes numbers from others, and does more than move, join, squash or pick them."""
    known = (*SQUASHING, *PASSING, *RESHAPING, *PICKING, *ARITHMETIC)
    arranging = ("Transpose", "Concat", "Split", "Slice", "Expand", "Tile", "DepthToSpace", "SpaceToDepth")
    ending = ("ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "ReduceMax", "ReduceL2", "ReduceSum", "Where")
    shaping = ("Shape", "Constant", "ConstantOfShape", "Range", "ScatterND", "ScatterElements", "Floor", "Round", "Mod")
    comparing = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "And", "Not", "Abs", "Reciprocal")
    return not is_standard(node, *known, *arranging, *ending, *shaping, *comparing)


def channel_axis(node: ir.Node, rank: int) -> int | None:
    """Axis of the channels that a layer computes; None where it has no weights."""
    if is_standard(node, "Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization"):
        return 1
    if is_standard(node, "MatMul", "Gemm", "LayerNormalization", *RECURRENT):
        return rank - 1
    return 1 if "Pool" in node.op_type else None
