"""Free the names that quantizers will have, where an input or output of the graph or a node of the model has one.

    x, x_scale inputs      ->  x -> Identity -> x_1, which all readers of x read: its scale is called x_1_scale
    y, y_quantized outputs ->  y_1 -> Identity -> y
    w a constant           ->  w_1

Names of inputs and outputs are the user's and stay; what they collide with is called otherwise. Runtimes drop the
Identity when they open the file.
"""

import itertools

import onnx_ir as ir

from passes.graph_pass import GraphPass
from passes.qdq_names import node_owner, owners_of
from passes.surgery import free_node_name, is_exposed, is_standard


class FreeNames(GraphPass):
    """Rename values and nodes of a float graph that would take away names from what InsertQdq adds.

    Inner values need no care: InsertQdq renames them. A graph without collisions stays as it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename, and put an Identity where two names belong to the user."""
        graph = model.graph
        values = {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
        values |= {value.name: value for node in graph for value in node.outputs if value.name}
        exposed = [str(value.name) for value in (*graph.inputs, *graph.outputs)]
        owners = set().union(*(owners_of(name) for name in exposed))
        modified = False
        for owner in sorted(owners & {str(name) for name in values}):
            value = values[owner]
            if _is_detached(value):
                continue
            numbered = (f"{owner}_{count}" for count in itertools.count(1))
            free = next(name for name in numbered if name not in values and name not in owners)
            values[free] = value
            if not is_exposed(value):
                value.name = free
            elif value.is_graph_input():
                _detach_input(graph, value, free)
            else:
                _detach_output(graph, value, free)
            modified = True
        for node in graph:
            if node_owner(node.name or "") in values:
                node.name = free_node_name(graph, f"{node.name}_1")
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_detached(value: ir.Value) -> bool:
    """Tell whether an input is only copied, or an output only a copy, so that neither is quantized itself."""
    if value.is_graph_input():
        return all(is_standard(use.node, "Identity") for use in value.uses())
    maker = value.producer()
    return value.is_graph_output() and maker is not None and is_standard(maker, "Identity")


def _detach_input(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Let all readers of a graph input read a value of another name."""
    node, readers = _identity(graph, value), value.uses()
    node.outputs[0].name = name
    for use in readers:
        if use.node is not node:
            use.node.replace_input_with(use.idx, node.outputs[0])
    graph.insert_before(graph[0], node)


def _detach_output(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Let a value of another name be what nodes read, and a graph output a copy of it."""
    node, producer = _identity(graph, value), value.producer()
    node.outputs[0].name, value.name = value.name, name
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = node.outputs[0]
    assert producer is not None
    graph.insert_after(producer, node)


def _identity(graph: ir.Graph, value: ir.Value) -> ir.Node:
    node = ir.node("Identity", [value], name=free_node_name(graph, f"{value.name}_Identity"))
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    return node
