"""What passes share: finding nodes and inputs, constants of a node's own, free names, removing what nobody reads."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from backends.target import OperatorRule, Target
from passes.operators import STANDARD_DOMAINS


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Tell whether the node is one of these operators of ONNX itself, not a namesake of another domain."""
    return node.op_type in op_types and node.domain in STANDARD_DOMAINS


def rule_of(node: ir.Node, target: Target) -> OperatorRule | None:
    """Return the target's rule for a node, None where it stays float."""
    return target.rule(node.op_type) if node.domain in STANDARD_DOMAINS else None


def standard_nodes(graph: ir.Graph, *op_types: str) -> list[ir.Node]:
    """Return the nodes of the main graph that are one of these operators, in graph order."""
    return [node for node in graph if is_standard(node, *op_types)]


def has_subgraph(node: ir.Node) -> bool:
    """Tell whether the node holds graphs of its own (If, Loop, Scan)."""
    return any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values())


def bodies(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that the node holds."""
    single = [attr.as_graph() for attr in node.attributes.values() if attr.type == ir.AttributeType.GRAPH]
    several = [attr.as_graphs() for attr in node.attributes.values() if attr.type == ir.AttributeType.GRAPHS]
    return [*single, *(graph for graphs in several for graph in graphs)]


def inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the nodes of the graphs that the node holds, at any depth."""
    for body in bodies(node):
        for inner in body:
            yield inner
            yield from inner_nodes(inner)


def captured(node: ir.Node) -> list[ir.Value]:
    """Return the values that the graphs inside the node read from outside of them."""
    found: dict[ir.Value, None] = {}
    for body in bodies(node):
        own = {*body.inputs, *body.initializers.values()}
        for inner in body:
            found |= dict.fromkeys(value for value in read_values(inner) if value not in own)
            own.update(inner.outputs)
        found |= dict.fromkeys(value for value in body.outputs if value not in own)
    return list(found)


def read_values(node: ir.Node) -> list[ir.Value]:
    """Return the inputs of the node that are there, and what the graphs inside it read from outside of them."""
    return [*(value for value in node.inputs if value is not None), *captured(node)]


def input_at(node: ir.Node, position: int) -> ir.Value | None:
    """Return an input, None where it is left out."""
    return node.inputs[position] if len(node.inputs) > position else None


def is_constant(node: ir.Node, position: int) -> bool:
    """Tell whether an input is there, and a constant."""
    value = input_at(node, position)
    return value is not None and value.const_value is not None


def producer(node: ir.Node, position: int) -> ir.Node | None:
    """Return the node that makes an input, None where there is none."""
    value = input_at(node, position)
    return None if value is None else value.producer()


def dequantizer(node: ir.Node, position: int) -> ir.Node | None:
    """Return the DequantizeLinear that makes an input, None where there is none."""
    maker = producer(node, position)
    return maker if maker is not None and is_standard(maker, "DequantizeLinear") else None


def first_reader(graph: ir.Graph, value: ir.Value) -> ir.Node:
    """Return the node that reads a value first, in the order of the graph; there must be one."""
    readers = {use.node for use in value.uses()}
    return next(node for node in graph if node in readers or not readers.isdisjoint(inner_nodes(node)))


def only_use(value: ir.Value) -> tuple[ir.Node, int] | None:
    """Return the node that alone reads a value, and at which position; None for several readers or a graph output."""
    uses = value.uses()
    return next(iter(uses)) if len(uses) == 1 and not value.is_graph_output() else None


def is_exposed(value: ir.Value) -> bool:
    """Tell whether the value is an input or output of the graph, so that its name belongs to the user."""
    return value.is_graph_output() or value.is_graph_input()


def has_readers(node: ir.Node) -> bool:
    """Tell whether an output of the node is read or is a graph output."""
    return any(output.uses() or output.is_graph_output() for output in node.outputs)


def free_name(graph: ir.Graph, wanted: str) -> str:
    """Return the wanted value name, or the first ``wanted_N`` that no value of the graph has."""
    taken = {*graph.initializers, *(value.name for value in graph.inputs)}
    return _first_free(wanted, taken | {value.name for node in graph for value in node.outputs})


def free_node_name(graph: ir.Graph, wanted: str) -> str:
    """Return the wanted node name, or the first ``wanted_N`` that no node of the graph has."""
    return _first_free(wanted, {node.name for node in graph})


def _first_free(wanted: str, taken: set[str | None]) -> str:
    names = itertools.chain([wanted], (f"{wanted}_{count}" for count in itertools.count(1)))
    return next(name for name in names if name not in taken)


def set_type(value: ir.Value, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    """Give a value an element type and a copy of a shape."""
    # not value.dtype: a clone shares its type object with the original
    value.type, value.shape = ir.TensorType(dtype), None if shape is None else shape.copy()


def add_constant(graph: ir.Graph, wanted: str, array: NDArray[np.generic]) -> ir.Value:
    """Add an initializer under the wanted name, or the next free one."""
    value = ir.Value(name=free_name(graph, wanted))
    _assign(value, array)
    graph.register_initializer(value)
    return value


def set_constant(graph: ir.Graph, node: ir.Node, position: int, array: NDArray[np.generic], kind: str) -> None:
    """Make an array the constant input of a node, which may have had none there.

    An initializer that only this node reads keeps its name; a shared one is left as it is for the others, and the new
    one is called ``<node>.<kind>``.
    """
    old = input_at(node, position)
    if old is not None and old.is_initializer() and len(old.uses()) == 1 and not is_exposed(old):
        _assign(old, array)
    else:
        set_input(node, position, add_constant(graph, f"{node.name}.{kind}", array))


def _assign(value: ir.Value, array: NDArray[np.generic]) -> None:
    tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=value.name)
    value.const_value, value.shape, value.type = tensor, ir.Shape(array.shape), ir.TensorType(tensor.dtype)


def set_input(node: ir.Node, position: int, value: ir.Value | None) -> None:
    """Replace one input, adding empty ones before it where the node has fewer."""
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    node.replace_input_with(position, value)


def drop_unused(graph: ir.Graph, values: Iterable[ir.Value | None]) -> None:
    """Remove those of the values that are initializers nobody reads any more."""
    for value in dict.fromkeys(values):
        if value is not None and value.is_initializer() and not value.uses() and not is_exposed(value):
            graph.initializers.pop(value.name or "")


def remove_unread(graph: ir.Graph, node: ir.Node) -> None:
    """Remove a node that nobody reads, and what only led to it."""
    inputs = tuple(node.inputs)
    graph.remove(node, safe=True)
    for value in inputs:
        maker = None if value is None else value.producer()
        if maker is not None and maker.graph is not None and not has_readers(maker):
            remove_unread(graph, maker)
    drop_unused(graph, inputs)


def absorb(graph: ir.Graph, node: ir.Node, source: ir.Value) -> None:
    """Remove a node of one output; its readers, its output's name and its shape go to ``source``.

    ``source`` must not be an input or output of the graph if the node's output is a graph output.
    """
    output = node.outputs[0]
    name, inputs = output.name, tuple(node.inputs)
    if output.shape is not None:
        source.shape = output.shape
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    source.name = name
    drop_unused(graph, inputs)


def put_behind(graph: ir.Graph, made: ir.Node, former_name: str) -> None:
    """Insert a node behind the one whose output it reads first; its own output takes over name, type and readers.

    The output that was there so far gets the name ``former_name``, or a free one like it.
    """
    former, final = made.inputs[0], made.outputs[0]
    assert former is not None
    node = former.producer()
    assert node is not None
    graph.insert_after(node, made)
    final.shape, final.type = former.shape, former.type
    former.replace_all_uses_with(final, replace_graph_outputs=True)
    made.replace_input_with(0, former)
    final.name, former.name = former.name, free_name(graph, former_name)


def take_over(value: ir.Value, replacement: ir.Value) -> None:
    """Let a value take the place and the name of another, as a graph output, too."""
    name, value.name = value.name, None
    value.replace_all_uses_with(replacement, replace_graph_outputs=True)
    replacement.name = name
