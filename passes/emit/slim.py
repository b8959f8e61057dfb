"""Strip from an emitted model what a runtime does not read: a tenth of a 4-bit file.

1. Types and shapes of inner values and initializers: runtimes infer them.
2. onnxsim's log in the model's metadata.
3. Names of the nodes that quantization added, and long names of their outputs; nodes and values of the user's model
   keep theirs.
4. Equal initializers, such as the zero points of all layers with the same number of channels, are stored once.
"""

import itertools

import onnx_ir as ir
from onnx_ir.passes import common

from passes.graph_pass import GraphPass
from passes.operators import QUANTIZERS
from passes.surgery import drop_unused


class Slim(GraphPass):
    """Strip the model, as the last step before it is written: later passes find neither shapes nor names."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Strip all nodes and values of the main graph."""
        modified = bool(common.DeduplicateInitializersPass()(model).modified)
        for key in [key for key in model.metadata_props if key.startswith("onnxsim.")]:
            modified = True
            del model.metadata_props[key]
        graph = model.graph
        count = len(graph.initializers)
        drop_unused(graph, tuple(graph.initializers.values()))
        modified |= len(graph.initializers) < count
        values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        taken = {value.name for value in (*graph.inputs, *values)}
        free = (name for name in (f"q{count}" for count in itertools.count()) if name not in taken)
        for node in graph:
            if node.name and _is_added(node):
                modified = True
                node.name = None
                for value in node.outputs:
                    value.name = value.name if value.is_graph_output() else next(free)
        for value in values:
            if not value.is_graph_output() and (value.type is not None or value.shape is not None):
                modified = True
                value.type, value.shape = None, None
        return ir.passes.PassResult(model, modified)


def _is_added(node: ir.Node) -> bool:
    """Tell whether quantization added a node: quantizers, and what leads from constants to them."""
    if node.op_type in QUANTIZERS:
        return True
    readers = [use.node for value in node.outputs for use in value.uses()]
    return bool(readers) and _is_constant(node) and all(_is_added(reader) for reader in readers)


def _is_constant(node: ir.Node) -> bool:
    """Tell whether a node reads nothing but constants, directly or through other nodes."""
    for value in node.inputs:
        maker = None if value is None else value.producer()
        if value is None or not (value.is_initializer() or (maker is not None and _is_constant(maker))):
            return False
    return True
