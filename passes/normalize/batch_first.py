"""Put the batch of inputs and outputs on axis 0, and back: a Transpose behind an input, and one in front of an output.

state(2, N, 24) -> GRU        ->  state(N, 2, 24) -> Transpose -> GRU
rate() -> If                  ->  rate(N) -> Gather(0) -> If
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from passes.surgery import add_constant, drop_unused, free_name, free_node_name, set_type

Axes = Mapping[str, int | None]
"""Axis of the batch by name; None where there is no batch, and a run takes one value for all of it."""


def put_batch_first(model: ir.Model, inputs: Axes, outputs: Axes) -> tuple[str, ...]:
    """Let inputs and outputs have their batch on axis 0, in place; return the names of the nodes that were added.

    An input without a batch gets one, of which the first sample is used. Outputs without one stay as they are.
    """
    graph = model.graph
    added = []
    for place, value in enumerate(list(graph.inputs)):
        axis = inputs.get(str(value.name), 0)
        if axis != 0:
            added.append(_convert_input(graph, place, value, axis))
    for place, value in enumerate(list(graph.outputs)):
        axis = outputs.get(str(value.name), 0)
        if axis:
            added.append(_convert_output(graph, place, value, axis))
    return tuple(added)


def put_batch_back(model: ir.Model, added: Sequence[str]) -> None:
    """Take the nodes out again that ``put_batch_first`` added, in place; shapes of inputs and outputs are forgotten."""
    graph = model.graph
    for node in [node for node in graph if node.name in added]:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        name = output.name
        if not output.is_graph_output():
            output.replace_all_uses_with(source)
        elif source.producer() is None or source.is_graph_output():  # an input that is an output
            node.op_type = "Identity"
            node.attributes.clear()
            node.resize_inputs(1)
            output.shape = None
            continue
        else:
            output.replace_all_uses_with(source, replace_graph_outputs=True)
            output.name = None
            source.name, source.type = name, output.type  # types inside may have been stripped
        for value in (source, output):
            value.shape = None
        behind = tuple(node.inputs[1:])
        graph.remove(node, safe=True)
        drop_unused(graph, behind)


def _convert_input(graph: ir.Graph, place: int, value: ir.Value, axis: int | None) -> str:
    name = str(value.name)
    sizes: list[int | ir.SymbolicDim] = list(value.shape) if value.shape is not None else []
    value.name = free_name(graph, f"{name}_in_file")
    given = ir.Value(name=name)
    assert value.dtype is not None
    if axis is None:
        set_type(given, value.dtype, ir.Shape(["batch", *sizes]))
        first = add_constant(graph, f"{name}_first", np.array(0, np.int64))
        attributes, inputs, operator = {"axis": ir.AttrInt64("axis", 0)}, [given, first], "Gather"
    else:
        set_type(given, value.dtype, ir.Shape([sizes[axis], *sizes[:axis], *sizes[axis + 1 :]]))
        order = [*range(1, axis + 1), 0, *range(axis + 1, len(sizes))]
        attributes, inputs, operator = {"perm": ir.AttrInt64s("perm", order)}, [given], "Transpose"
    graph.inputs[place] = given
    node = ir.Node(
        "",
        operator,
        inputs,
        attributes=attributes,
        outputs=[value],
        name=free_node_name(graph, f"{name}_batch_first"),
    )
    graph.insert_before(graph[0], node)
    return str(node.name)


def _convert_output(graph: ir.Graph, place: int, value: ir.Value, axis: int) -> str:
    name = str(value.name)
    sizes: list[int | ir.SymbolicDim] = list(value.shape) if value.shape is not None else []
    value.name = free_name(graph, f"{name}_in_file")
    given = ir.Value(name=name)
    assert value.dtype is not None
    set_type(given, value.dtype, ir.Shape([sizes[axis], *sizes[:axis], *sizes[axis + 1 :]]))
    order = [axis, *(other for other in range(len(sizes)) if other != axis)]
    node = ir.Node(
        "",
        "Transpose",
        [value],
        attributes={"perm": ir.AttrInt64s("perm", order)},
        outputs=[given],
        name=free_node_name(graph, f"{name}_batch_first"),
    )
    graph.append(node)
    graph.outputs[place] = given
    return str(node.name)
