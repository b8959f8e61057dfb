"""Small moves that passes share: constants of a node's own, free names, removing what nobody reads."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def free_name(graph: ir.Graph, wanted: str) -> str:
    """Return the wanted value name, or the first ``wanted_N`` that no value of the graph has."""
    taken = set(graph.initializers) | {value.name for value in graph.inputs}
    taken |= {value.name for node in graph for value in node.outputs}
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


def add_constant(graph: ir.Graph, wanted: str, array: NDArray[np.generic]) -> ir.Value:
    """Add an initializer under the wanted name, or the next free one."""
    name = free_name(graph, wanted)
    tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def set_constant(graph: ir.Graph, node: ir.Node, position: int, array: NDArray[np.generic], kind: str) -> None:
    """Make an array the constant input of a node, which may have had none there.

    An initializer that only this node reads keeps its name; a shared one is left as it is for the others, and the new
    one is called ``<node>.<kind>``.
    """
    old = node.inputs[position] if len(node.inputs) > position else None
    if old is not None and old.is_initializer() and len(old.uses()) == 1 and not is_exposed(old):
        tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=old.name)
        old.const_value, old.shape, old.type = tensor, ir.Shape(array.shape), ir.TensorType(tensor.dtype)
        return
    set_input(node, position, add_constant(graph, f"{node.name}.{kind}", array))


def set_input(node: ir.Node, position: int, value: ir.Value | None) -> None:
    """Replace one input, adding empty ones before it where the node has fewer."""
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    node.replace_input_with(position, value)


def is_exposed(value: ir.Value) -> bool:
    """Tell whether the value is an input or output of the graph, so that its name belongs to the user."""
    return value.is_graph_output() or value.is_graph_input()


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Tell whether the node is one of these operators of ONNX itself, not a namesake of another domain."""
    return node.op_type in op_types and node.domain in ("", "ai.onnx")


def dequantizer(node: ir.Node, position: int) -> ir.Node | None:
    """Return the DequantizeLinear that makes an input of a node; None where there is none."""
    value = node.inputs[position] if len(node.inputs) > position else None
    maker = None if value is None else value.producer()
    return maker if maker is not None and is_standard(maker, "DequantizeLinear") else None


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
        if value is None or maker is None or maker.graph is None:
            continue
        if not any(output.uses() or is_exposed(output) for output in maker.outputs):
            remove_unread(graph, maker)
    drop_unused(graph, inputs)


def absorb(graph: ir.Graph, node: ir.Node, source: ir.Value) -> None:
    """Remove a node of one output; its consumers, its output's name and its shape go to ``source``.

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
