"""Find what turns the numbers of a detector's last layers into boxes: its decode tail.

    last convolutions -> Reshape, Transpose, Concat -> bins of distances -> Softmax -> mean of the bins     (DFL)
                                                    -> centres: (sigmoid(x) * 2 + grid) * stride
                                                    -> sizes: exp(x) * anchor, (sigmoid(x) * 2) ** 2 * anchor
                                                    -> scores: sigmoid(x)
    -> corners by adding and subtracting -> Concat of boxes and scores -> output, or NonMaxSuppression

A tail is what lies behind the last layers that have learned weights, where it holds one of the marks of such
arithmetic: a mean over bins, exp, a grid, a Concat of probabilities with numbers that are none, peaks (places where a
number equals the largest around it), NonMaxSuppression. Grids are constants, or values that depend on sizes alone, that
differ along two axes or count up along one: a bias or a factor for each channel does neither. A network that only adds,
pools or resizes behind its last layers has no such tail.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value
from passes.operators import DATA_MOVEMENT, RECURRENT, STANDARD_DOMAINS, WEIGHTED
from passes.quantize.float_regions import FloatRegion
from passes.surgery import input_at, is_standard, producer

_SUMMING = ("GlobalAveragePool", "AveragePool", "ReduceMean")  # of features: no decoding reads what they read
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_BOUNDED = ("Sigmoid", "HardSigmoid", "Softmax")
_COUNTED = ("Range", "NonZero", "CumSum", "EyeLike")  # what grids of an open size are made of
_LEAST_COUNT = 4  # numbers that count up: two or three of a bias may do so by chance
_INDICES = {
    **dict.fromkeys(("RoiAlign", "GridSample", "Gather", "GatherElements", "GatherND"), 1),
    **dict.fromkeys(("Reshape", "Slice", "Expand", "Tile", "Resize", "Upsample", "Unsqueeze", "Squeeze"), 1),
}
"""First input that says where or how large, by operator: boxes that lead to it are no features of the layers behind."""


def decode_tails(graph: ir.Graph) -> FloatRegion:
    """Find the nodes of the tails, and the values between the last layers and them, that nothing else reads."""
    computed = _computed(graph)
    behind = _behind_layers(graph, computed)
    tails = _components(graph, behind, computed)
    nodes = {node for tail in tails if any(_is_mark(node, computed) for node in tail) for node in tail}
    values = {str(value.name) for node in nodes for value in node.outputs if value.name}
    for node in nodes:
        for value in node.inputs:
            if value is not None and value in computed and all(reader in nodes for reader, _ in _uses(value)):
                values.add(str(value.name))
    return FloatRegion(nodes=frozenset(nodes), values=frozenset(values))


def _uses(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Places where the numbers of a value are read, not its sizes alone."""
    return [(use.node, use.idx) for use in value.uses() if not is_standard(use.node, "Shape", "Size")]


def _computed(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on the numbers of a graph input, and not on its sizes alone."""
    found = {value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if not is_standard(node, "Shape", "Size") and not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def _behind_layers(graph: ir.Graph, computed: set[ir.Value]) -> set[ir.Node]:
    """Nodes that compute, and lead to no layer."""
    behind: set[ir.Node] = set()
    for node in reversed(list(graph)):
        if _is_layer(node, computed) or computed.isdisjoint(node.inputs):
            continue
        uses = [use for value in node.outputs for use in _uses(value)]
        if all(reader in behind or at >= _INDICES.get(reader.op_type, at + 1) for reader, at in uses):
            behind.add(node)
    return behind


def _is_layer(node: ir.Node, computed: set[ir.Value]) -> bool:
    """Whether a node has learned weights, multiplies two computed values, or sums up features."""
    if node.domain not in STANDARD_DOMAINS or node.op_type in (*RECURRENT, *_SUMMING):
        return True
    if is_standard(node, "MaxPool"):  # peaks are found by one that moves in steps of 1
        return any(step != 1 for step in node.attributes.get_ints("strides", ()))
    return is_standard(node, *WEIGHTED) and not _is_mean_of_bins(node)


def _is_mean_of_bins(node: ir.Node) -> bool:
    """Whether a Softmax is summed up with weights that count up: the mean of a distribution over bins."""
    maker = _unmoved(producer(node, 0))
    if maker is None or not is_standard(maker, "Softmax"):
        return False
    weight = constant_value(input_at(node, 1))
    return weight is not None and _counts_up(weight.reshape(-1))


def _unmoved(node: ir.Node | None) -> ir.Node | None:
    """Return what makes the numbers that a chain of moving operators hands on."""
    while node is not None and is_standard(node, *DATA_MOVEMENT):
        node = producer(node, 0)
    return node


def _components(graph: ir.Graph, nodes: set[ir.Node], computed: set[ir.Value]) -> list[list[ir.Node]]:
    """Group nodes that are connected by a computed value that one of them makes, or that only they read."""
    leader: dict[ir.Node, ir.Node] = {node: node for node in nodes}

    def find(node: ir.Node) -> ir.Node:
        while leader[node] is not node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    for value in computed:
        maker, readers = value.producer(), [reader for reader, _ in _uses(value)]
        inside = [node for node in readers if node in nodes]
        if maker is not None and maker in nodes:
            inside.append(maker)
        elif len(inside) < len(readers):
            continue
        for node in inside[1:]:
            leader[find(node)] = find(inside[0])
    groups: dict[ir.Node, list[ir.Node]] = {}
    for node in graph:
        if node in nodes:
            groups.setdefault(find(node), []).append(node)
    return list(groups.values())


def _is_mark(node: ir.Node, computed: set[ir.Value]) -> bool:
    if is_standard(node, "Exp"):
        return not any(is_standard(use.node, "ReduceSum") for use in node.outputs[0].uses())  # a Softmax by hand
    if is_standard(node, "NonMaxSuppression") or _is_mean_of_bins(node):
        return True
    if is_standard(node, "Equal"):  # peaks: on a grid neighbours are equal by rounding
        return computed.issuperset(value for value in node.inputs if value is not None)
    if is_standard(node, "Concat"):
        bounded = {_is_bounded(value) for value in node.inputs if value is not None and value in computed}
        return len(bounded) == 2
    others = [value for value in node.inputs if value is not None and value not in computed]
    return is_standard(node, *_ARITHMETIC) and any(_is_grid(value) for value in others)


def _is_bounded(value: ir.Value) -> bool:
    """Whether a value is a probability, moved or joined with others."""
    node = _unmoved(value.producer())
    if node is not None and is_standard(node, "Concat", "Mul"):  # scores times objectness
        return all(one is None or _is_bounded(one) for one in node.inputs)
    return node is not None and is_standard(node, *_BOUNDED)


def _is_grid(value: ir.Value) -> bool:
    numbers = constant_value(value)
    if numbers is None:
        return _is_counted(value)
    if numbers.size < _LEAST_COUNT or not np.issubdtype(numbers.dtype, np.floating):
        return False
    varying = [axis for axis in range(numbers.ndim) if np.any(np.diff(numbers, axis=axis))]
    return len(varying) > 1 or (len(varying) == 1 and _counts_up(np.moveaxis(numbers, varying[0], 0)))


def _counts_up(numbers: NDArray[np.generic]) -> bool:
    """Whether numbers are evenly spaced along their first axis, and the same along all others."""
    if numbers.shape[0] < _LEAST_COUNT or not np.issubdtype(numbers.dtype, np.floating):
        return False
    rows = numbers.reshape(numbers.shape[0], -1).astype(np.float64)
    steps = np.diff(rows, axis=0)
    return bool(steps[0, 0] != 0.0 and np.allclose(steps, steps[0, 0], rtol=1e-4))


def _is_counted(value: ir.Value) -> bool:
    """Whether sizes alone make a value, by counting."""
    seen, stack = set[ir.Node](), [value]
    while stack:
        node = stack.pop().producer()
        if node is None or node in seen:
            continue
        if is_standard(node, *_COUNTED):
            return True
        seen.add(node)
        if not is_standard(node, "Shape", "Size"):
            stack += [one for one in node.inputs if one is not None]
    return False
