"""What had better stay float: what leads to an output, what only a Softmax reads, sums of squares, copies of inputs."""

from dataclasses import dataclass

import onnx_ir as ir

from passes.constants import constant_value
from passes.operators import DATA_MOVEMENT, WEIGHTED
from passes.surgery import input_at, is_standard

_SQUASHING = "Relu Clip Softmax LogSoftmax Sigmoid HardSigmoid Tanh Exp ArgMax TopK"
_TAIL = (*DATA_MOVEMENT, "Concat", "Resize", "Upsample", *_SQUASHING.split())
_RESCALING = ("Add", "Sub", "Mul", "Div")  # with a constant
_SCORING = (*DATA_MOVEMENT, *_RESCALING, "Where", "Sum", "Max", "Min", "Clip")

_ROOTS = ("Sqrt", "Log")
_SUMS = (*DATA_MOVEMENT, "Add", "Sum", "Max", "Clip", "ReduceSum")


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatRegion:
    """A part of a graph that stays float.

    Attributes:
        nodes: that compute in float. What they make stays float, too, unless a kernel outside needs it quantized.
        values: names of those that nothing quantizes as a result, whoever makes them.
        spared: the layers that make one of ``values`` keep their integer kernel, and so the value is quantized, unless
            a kernel can make float numbers.

    """

    nodes: frozenset[ir.Node] = frozenset()
    values: frozenset[str] = frozenset()
    spared: bool = False


def output_region(graph: ir.Graph) -> set[str]:
    """Names of the graph outputs, and of values that lead to one by being moved, rescaled or squashed only."""
    region = {str(value.name) for value in graph.outputs}
    for node in reversed(list(graph)):
        rescales = node.op_type in _RESCALING and (_constant(node, 0) or _constant(node, 1))
        if (node.op_type in _TAIL or rescales) and any(value.name in region for value in node.outputs):
            region.update(str(value.name) for value in node.inputs if value is not None and value.const_value is None)
    return region


def score_region(graph: ir.Graph) -> FloatRegion:
    """Find the values that nothing but a Softmax reads, behind masking, rescaling and moving only.

    A mask holds -10000, the lowest float32 or minus infinity where attention is forbidden: a grid that reaches as far
    has one code for all that matters. Softmax computes in float, so nothing is lost by leaving its input float as well.
    """
    region: set[str] = set()

    def scores(node: ir.Node) -> bool:
        masked = is_standard(node, *_SCORING) and all(value.name in region for value in node.outputs if value.name)
        return masked or is_standard(node, "Softmax", "LogSoftmax")

    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    for value in reversed(values):  # readers come first
        readers = [use.node for use in value.uses() if not is_standard(use.node, "Shape", "Size")]
        if readers and not value.is_graph_output() and all(scores(node) for node in readers):
            region.add(str(value.name))
    return FloatRegion(values=frozenset(region), spared=True)


def power_region(graph: ir.Graph) -> FloatRegion:
    """Find the nodes that square values, or add up squares, on the way to a root or a logarithm, as in spectrograms.

    A square spans twice the decades of its value: a grid of eight bits has one code for all that is more than 24 dB
    below the loudest, of which a root or a logarithm then makes something large. Roots and logarithms run in float.
    """
    squares = {node for node in graph if _squares(node)}
    powers = {str(value.name) for node in squares for value in node.outputs}
    for node in graph:
        if is_standard(node, *_SUMS) and any(value is not None and value.name in powers for value in node.inputs):
            powers.update(str(value.name) for value in node.outputs)
    region: set[ir.Node] = set()
    leading: set[str] = set()
    for node in reversed(list(graph)):
        leads = any(value.name in leading for value in node.outputs) and (node in squares or is_standard(node, *_SUMS))
        if leads and any(value.name in powers for value in node.outputs):
            region.add(node)
        if is_standard(node, *_ROOTS) or (leads and node not in squares):
            leading.update(str(value.name) for value in node.inputs if value is not None and value.name in powers)
    return FloatRegion(nodes=frozenset(region))


def spectrum_region(graph: ir.Graph) -> FloatRegion:
    """Find powers as ``power_region`` does, and what makes the numbers that are squared: a Fourier transform.

    Of a transform in eight bits the weakest bins are noise of the loudest, and a magnitude or logarithm shows that.
    """
    powers = power_region(graph).nodes
    nodes, values = set(powers), set[str]()
    stack = [value for node in powers if _squares(node) for value in node.inputs[:1]]
    while stack:
        value = stack.pop()
        if value is None or str(value.name) in values or value.is_graph_input():
            continue
        values.add(str(value.name))
        maker = value.producer()
        if maker is not None and is_standard(maker, *DATA_MOVEMENT, *WEIGHTED):
            nodes.add(maker)
            if is_standard(maker, *DATA_MOVEMENT):
                stack.append(maker.inputs[0])
    return FloatRegion(nodes=frozenset(nodes), values=frozenset(values))


def _squares(node: ir.Node) -> bool:
    if is_standard(node, "Mul"):
        return node.inputs[0] is node.inputs[1]
    exponent = constant_value(input_at(node, 1)) if is_standard(node, "Pow") else None
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2.0


def input_copies(graph: ir.Graph) -> tuple[set[str], set[ir.Node]]:
    """Find the values that hold numbers of a graph input unchanged on their way to an output, and the nodes between.

    An Identity of an input is on no way that costs anything, so it always counts.
    """
    leading = {str(value.name) for value in graph.outputs}
    for node in reversed(list(graph)):
        if is_standard(node, *DATA_MOVEMENT, "Concat") and any(value.name in leading for value in node.outputs):
            moved = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            leading.update(str(value.name) for value in moved if value is not None)
    copies, carriers = {str(value.name) for value in graph.inputs}, set[ir.Node]()
    for node in graph:
        if not is_standard(node, *DATA_MOVEMENT) or node.inputs[0] is None or node.inputs[0].name not in copies:
            continue
        if node.op_type == "Identity" or any(value.name in leading for value in node.outputs):
            carriers.add(node)
            copies.update(str(value.name) for value in node.outputs)
    return copies, carriers


def _constant(node: ir.Node, position: int) -> bool:
    value = input_at(node, position)
    return value is not None and value.const_value is not None
