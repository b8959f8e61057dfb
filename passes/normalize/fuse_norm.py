"""Write normalisations that exporters took apart as one node, which stays float as a whole.

    m = ReduceMean(x), d = x - m, v = ReduceMean(d * d), n = d / Sqrt(v + e), y = n * g + b

    over the last axes     ->  LayerNormalization(x, g, b)
    over the places        ->  InstanceNormalization(x, g, b)     g and b one number for each channel

Keras writes y = x * k + (b - m * k) with k = g / Sqrt(v + e). In parts, some would be quantized, and a mean and a
deviation of 8 bits move every element behind them. UnifyDivisions has made divisions of products with a reciprocal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_axes, constant_number, constant_value
from passes.graph_pass import NodePass
from passes.normalize.unify_divisions import divided_by
from passes.surgery import add_constant, input_at, is_standard, only_use, producer, remove_unread, take_over

_MOST = 1 << 16  # elements of a scale of ones


@dataclass(frozen=True, slots=True)
class _Norm:
    """``output`` = (source - mean) / sqrt(variance + epsilon) * scale + shift, with the moments over ``axes``."""

    source: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    output: ir.Value
    scale: NDArray[np.generic] | None = None
    shift: NDArray[np.generic] | None = None


class FuseNorm(NodePass):
    """Fuse the parts into one node; parts that others read stay for these.

    Ranks must be known, and the sizes of the axes that scale and shift have.
    """

    op_types = ("Div", "Add")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Fuse the normalisation that ends in this node, or in a scale and a shift behind it."""
        norm = None if node.graph is None else _of_quotient(node) if node.op_type == "Div" else _of_product(node)
        if norm is None or norm.source.dtype not in (None, ir.DataType.FLOAT):
            return False
        for candidate in _candidates(norm):
            last = candidate.output.producer()
            form = _form(candidate)
            if form is not None and last is not None:
                op_type, attributes, constants = form
                values = [
                    add_constant(graph, f"{last.name}.{kind}", array.astype(np.float32))
                    for kind, array in zip(("scale", "bias"), constants, strict=True)
                ]
                made = ir.node(op_type, [norm.source, *values], attributes, name=last.name)
                made.outputs[0].shape, made.outputs[0].type = candidate.output.shape, norm.source.type
                graph.insert_before(last, made)
                take_over(candidate.output, made.outputs[0])
                remove_unread(graph, last)
                return True
        return False


def is_moment(mean: ir.Node) -> bool:
    """Tell whether a mean belongs to a normalisation: it is taken from its own source, or it is one of squares."""
    source = mean.inputs[0]
    centres = (is_standard(user, "Sub") and user.inputs[0] is source for user, _ in mean.outputs[0].uses())
    return _square_root(source) is not None or any(centres)


def _of_quotient(node: ir.Node) -> _Norm | None:
    centred, root = _centred(node.inputs[0]), _under_root(node.inputs[1])
    deviation = None if root is None else _deviation(root)
    if centred is None or deviation is None or centred != deviation[:2]:
        return None
    return _Norm(*centred, deviation[2], node.outputs[0])


def _of_product(node: ir.Node) -> _Norm | None:
    """Match x * k + (b - m * k)."""
    for product, rest in (node.inputs, reversed(node.inputs)):
        multiplied, difference = _operands(product, "Mul"), _operands(rest, "Sub")
        shift = constant_value(difference[0]) if difference else None
        taken = _operands(difference[1], "Mul") if difference else None
        if multiplied is None or taken is None or shift is None:
            continue
        for source, factor in (multiplied, reversed(multiplied)):
            divided = divided_by(factor)
            others = [value for value in taken if value is not factor]
            mean = _mean(others[0]) if len(others) == 1 else None
            if divided is None or mean is None or mean[0] is not source:
                continue
            root = divided[0] if divided[2] else _under_root(divided[0])
            deviation = None if root is None else _deviation(root)
            scale = None if divided[1] is None else constant_value(divided[1])
            if deviation is not None and deviation[:2] == mean:
                return _Norm(*mean, deviation[2], node.outputs[0], scale, shift)
    return None


def _operands(value: ir.Value | None, op_type: str) -> tuple[ir.Value | None, ...] | None:
    node = value.producer() if value is not None else None
    return tuple(node.inputs) if node is not None and is_standard(node, op_type) and len(node.inputs) == 2 else None


def _deviation(value: ir.Value) -> tuple[ir.Value, tuple[int, ...], float] | None:
    """For the variance of x plus a constant: x, the axes and the constant."""
    epsilon = 0.0
    for one, other in (pair for pair in [_operands(value, "Add")] if pair for pair in (pair, pair[::-1])):
        number = constant_number(other)
        if number is not None and one is not None:
            value, epsilon = one, number
    mean = _mean(value)
    centred = None if mean is None else _centred(_square_root(mean[0]))
    if mean is None or centred is None or centred[1] != mean[1] or epsilon < 0.0:
        return None
    return *centred, epsilon


def _centred(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """For x - mean of x: x, and the axes of the mean."""
    operands = _operands(value, "Sub")
    mean = _mean(operands[1]) if operands else None
    return mean if operands and mean and mean[0] is operands[0] else None


def _mean(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """For the mean of x over axes that it keeps with size 1: x and the axes."""
    node = value.producer() if value is not None else None
    spread = node if node is not None and is_standard(node, "Unsqueeze") else None
    node = node if spread is None else producer(spread, 0)
    source = node.inputs[0] if node is not None and is_standard(node, "ReduceMean") else None
    if node is None or source is None or source.shape is None:
        return None
    rank = len(source.shape)
    axes = constant_axes(input_at(node, 1), rank)
    kept = node.attributes.get_int("keepdims", 1) == 1
    if not axes or kept != (spread is None) or (spread and constant_axes(spread.inputs[1], rank) != axes):
        return None
    return source, axes


def _square_root(value: ir.Value | None) -> ir.Value | None:
    """For d * d: d."""
    if (operands := _operands(value, "Pow")) is not None and constant_number(operands[1]) == 2.0:
        return operands[0]
    operands = _operands(value, "Mul")
    return operands[0] if operands is not None and operands[0] is operands[1] else None


def _under_root(value: ir.Value | None) -> ir.Value | None:
    """For the square root of v: v."""
    if (operands := _operands(value, "Pow")) is not None and constant_number(operands[1]) == 0.5:
        return operands[0]
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and is_standard(node, "Sqrt") else None


def _candidates(norm: _Norm) -> list[_Norm]:
    """Return the normalisation with the constant scale and shift behind it first, and then with less of them."""
    found = [norm]
    if norm.shift is None and norm.scale is None and (behind := _constant_behind(norm.output, "Mul")) is not None:
        found.insert(0, replace(norm, scale=behind[0], output=behind[1]))
    if norm.shift is None and (behind := _constant_behind(found[0].output, "Add")) is not None:
        found.insert(0, replace(found[0], shift=behind[0], output=behind[1]))
    return found


def _constant_behind(value: ir.Value, op_type: str) -> tuple[NDArray[np.generic], ir.Value] | None:
    """Return the constant of the node of that operator which alone reads a value, and what it makes."""
    use = only_use(value)
    array = constant_value(use[0].inputs[1 - use[1]]) if use is not None and is_standard(use[0], op_type) else None
    return None if use is None or array is None else (array, use[0].outputs[0])


def _form(norm: _Norm) -> tuple[str, dict[str, int | float], list[NDArray[np.generic]]] | None:
    """Return the operator, its attributes, and its scale and shift; None where no operator has that shape."""
    assert norm.source.shape is not None
    sizes = list(norm.source.shape)
    rank = len(sizes)
    if norm.axes == tuple(range(2, rank)) and (rank > 3 or not isinstance(sizes[2], int)):
        constants = _spread(norm, [1, sizes[1], *[1] * (rank - 2)], sizes[1:2])
        if constants is not None:
            return "InstanceNormalization", {"epsilon": norm.epsilon}, constants
    first = norm.axes[0]
    if norm.axes == tuple(range(first, rank)):
        constants = _spread(norm, [*[1] * first, *sizes[first:]], sizes[first:])
        if constants is not None:
            return "LayerNormalization", {"axis": first, "epsilon": norm.epsilon}, constants
    return None


def _spread(norm: _Norm, widest: Sequence[object], sizes: Sequence[object]) -> list[NDArray[np.generic]] | None:
    """Scale and shift of the given sizes; None where one does not fit ``widest``, or the sizes are open or many."""
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(sizes) or np.prod(known) > _MOST:
        return None
    constants = []
    for given, neutral in ((norm.scale, 1.0), (norm.shift, 0.0)):
        array = np.full((), neutral, np.float32) if given is None else given
        padded = (*[1] * (len(widest) - array.ndim), *array.shape)
        if len(padded) > len(widest) or any(size not in (1, most) for size, most in zip(padded, widest, strict=True)):
            return None
        spread = np.broadcast_to(array.reshape(padded), [size if isinstance(size, int) else 1 for size in widest])
        constants.append(spread.reshape(known))
    return constants
