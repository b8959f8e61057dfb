"""Compute at compile time what depends on nothing but constants: ``f(constants) -> initializer``."""

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value
from passes.graph_pass import NodePass


class FoldConstants(NodePass):
    """Turn every node whose inputs are all constant into initializers; chains fold in one run.

    1. Nodes of the main graph only; a sub-graph may capture what is folded.
    2. Graph outputs keep their node: runtimes want one to make them.
    """

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Fold the node if all its outputs are known."""
        if any(output.is_graph_output() for output in node.outputs):
            return False
        if any(source is not None and source.const_value is None for source in node.inputs):
            return False
        outputs = [output for output in node.outputs if output.name]
        arrays = [array for output in outputs if (array := constant_value(output)) is not None]
        if not outputs or len(arrays) < len(outputs):
            return False
        for output, array in zip(outputs, arrays, strict=True):
            # not ascontiguousarray, which makes vectors of scalars
            made = ir.Value(name=output.name, const_value=ir.Tensor(np.asarray(array, order="C"), name=output.name))
            made.shape = ir.Shape(array.shape)
            made.dtype = ir.DataType.from_numpy(array.dtype)
            output.replace_all_uses_with(made)
            output.name = None
            graph.initializers.add(made)
        graph.remove(node, safe=True)
        return True
