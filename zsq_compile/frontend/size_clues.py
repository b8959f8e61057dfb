"""What a graph says of the sizes of its inputs: channels that weights want, strides, and the axis of the batch."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import onnx

from passes.operators import RECURRENT

Axes = tuple[int | None, ...]
"""For every axis of a value the axis of the input that it came from; None where that is not known."""

UNNAMED = frozenset({"", "?", "None", "unk__0"})
"""Names of open sizes that say nothing."""

_BATCH_NAMES = frozenset({"n", "b", "bs", "batch", "batch_size", "batchsize", "batch_axis", "num_batch"})
_SAME_AXES = frozenset(
    (
        *("Identity", "Cast", "Dropout", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid"),
        *("Abs", "Neg", "Exp", "Log", "Sqrt", "Erf", "Pow", "Reciprocal", "Floor", "Softmax", "Pad", "Slice", "Split"),
        *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "MaxPool", "AveragePool"),
        *("QuantizeLinear", "DequantizeLinear"),
    )
)
_WITH_CONSTANT = ("Add", "Sub", "Mul", "Div", "Max", "Min")
_MOST_STEPS = 64

Shapes = Mapping[str, Sequence[int]]


def constant_shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of initializers and of what is made of nothing else: Constant, and one node of one constant behind it."""
    known = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant":
            known |= {name: tuple(a.t.dims) for name in node.output for a in node.attribute if a.name == "value"}
        elif node.op_type in ("DequantizeLinear", "Cast", "Identity") and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]]
    return known


def largest_strides(proto: onnx.ModelProto) -> tuple[int, int]:
    """Products of the strides on the way to the value that is reduced most: of heights (or depths), and of widths.

    A network of one spatial axis has the same number twice.
    """
    factors: dict[str, tuple[float, float]] = {}
    largest = (1.0, 1.0)
    for node in proto.graph.node:
        before = [factors.get(name, (1.0, 1.0)) for name in node.input] or [(1.0, 1.0)]
        by = _steps(node)
        factor = (max(one for one, _ in before) * by[0], max(other for _, other in before) * by[1])
        if node.op_type.startswith("Global"):
            factor = (1.0, 1.0)  # nothing is left to be divided
        largest = (max(largest[0], factor[0]), max(largest[1], factor[1]))
        factors |= dict.fromkeys(node.output, factor)
    return round(largest[0]), round(largest[1])


def _steps(node: onnx.NodeProto) -> tuple[float, float]:
    """Factors by which a node divides heights and widths."""
    strides = _integers(node, "strides") or (1,)
    if node.op_type in ("Conv", "MaxPool", "AveragePool", "LpPool", "QLinearConv", "ConvInteger"):
        return max(strides[:-1], default=strides[0]), strides[-1]
    if node.op_type == "ConvTranspose":
        return 1.0 / max(strides[:-1], default=strides[0]), 1.0 / strides[-1]
    if node.op_type in ("SpaceToDepth", "DepthToSpace"):
        size = float(_integer(node, "blocksize", 1))
        size = size if node.op_type == "SpaceToDepth" else 1.0 / size
        return size, size
    return 1.0, 1.0


def wanted_sizes(proto: onnx.ModelProto, name: str, rank: int) -> dict[int, int]:
    """Sizes that weights and other constants want of the axes of an input, by axis."""
    shapes = constant_shapes(proto)
    found: dict[int, int] = {}
    for node, place, axes in _readers(proto, name, rank, shapes):
        for axis, size in _wants(node, place, axes, shapes).items():
            own = axes[axis] if -len(axes) <= axis < len(axes) else None
            if own is not None and size > 0:
                found.setdefault(own, size)
    return found


def recurrent_batch_axis(proto: onnx.ModelProto, name: str, rank: int) -> int | None:
    """Axis of an input that a recurrent operator takes for its batch, or a Gemm that transposes; None without one."""
    for node, place, axes in _readers(proto, name, rank, constant_shapes(proto)):
        axis = None
        if node.op_type in RECURRENT and place in (0, 5, 6):
            axis = 0 if _integer(node, "layout", 0) else 1
        elif node.op_type == "Gemm" and place == 0 and _integer(node, "transA", 0):
            axis = 1
        if axis is not None and axis < len(axes) and axes[axis] is not None:
            return axes[axis]
    return None


def names_batch(name: str) -> bool:
    """Whether an open size is called as a batch usually is."""
    return name.lower() in _BATCH_NAMES


def first_weight_rank(proto: onnx.ModelProto, name: str) -> int | None:
    """Rank that the first convolution or matrix behind an input of unknown rank wants; None where nothing says so."""
    shapes = constant_shapes(proto)
    for node, place, _ in _readers(proto, name, 0, shapes):
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and place == 0 and node.input[1] in shapes:
            return len(shapes[node.input[1]])
    return None


def _readers(
    proto: onnx.ModelProto, name: str, rank: int, constants: Shapes
) -> Iterator[tuple[onnx.NodeProto, int, Axes]]:
    """Nodes that read an input, past those that keep its axes or permute them, the nearest first."""
    waiting: list[tuple[str, Axes]] = [(name, tuple(range(rank)))]
    for _ in range(_MOST_STEPS):
        if not waiting:
            return
        value, axes = waiting.pop(0)
        for node in proto.graph.node:
            for place, given in enumerate(node.input):
                if given == value:
                    yield node, place, axes
                    if place == 0 or node.op_type in _WITH_CONSTANT:
                        behind = _behind(node, place, axes, constants)
                        waiting += [] if behind is None else [(output, behind) for output in node.output if output]


def _behind(node: onnx.NodeProto, place: int, axes: Axes, constants: Shapes) -> Axes | None:
    if node.op_type in _SAME_AXES:
        return axes
    if node.op_type in _WITH_CONSTANT:
        other = node.input[1 - place] if len(node.input) == 2 else ""
        return axes if other in constants and len(constants[other]) <= max(len(axes), 1) else None
    if node.op_type == "Transpose":
        permutation = _integers(node, "perm") or tuple(reversed(range(len(axes))))
        return tuple(axes[axis] for axis in permutation) if len(permutation) == len(axes) else axes
    return None


def _wants(node: onnx.NodeProto, place: int, axes: Axes, constants: Shapes) -> dict[int, int]:
    """Sizes by axis of the value that a node reads at a place."""
    weight = constants.get(node.input[1], ()) if len(node.input) > 1 else ()
    if node.op_type in _WITH_CONSTANT:
        other = constants.get(node.input[1 - place], ()) if len(node.input) == 2 else ()
        return {axis - len(other): size for axis, size in enumerate(other) if size > 1 and len(other) <= len(axes)}
    if node.op_type in RECURRENT and place in (5, 6) and len(node.input) > 2:
        return {-1: constants.get(node.input[2], (0,))[-1]}
    if place != 0 or not weight:
        return {}
    if node.op_type == "Conv" and len(weight) >= 3:
        return {1: weight[1] * _integer(node, "group", 1)}
    if node.op_type == "ConvTranspose" and len(weight) >= 3:
        return {1: weight[0]}
    if node.op_type == "Gemm" and len(weight) == 2:
        return {0 if _integer(node, "transA", 0) else 1: weight[1 if _integer(node, "transB", 0) else 0]}
    if node.op_type == "MatMul" and len(weight) >= 2:
        return {-1: weight[-2]}
    if node.op_type in RECURRENT and len(weight) == 3:
        return {-1: weight[2]}
    if node.op_type in ("BatchNormalization", "InstanceNormalization"):
        return {1: prod(weight)}
    return {-1: weight[-1]} if node.op_type == "LayerNormalization" else {}


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def _integers(node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    return next((tuple(one.ints) for one in node.attribute if one.name == name), ())
