"""Compute at compile time what depends on nothing but constants: ``f(constants) -> initializer``."""

import numpy as np
import onnx_ir as ir

from passes.constants import constant_value


class FoldConstants(ir.passes.InPlacePass):
    """Turn every node whose inputs are all constant into initializers.

    1. Nodes of the main graph only; a sub-graph may capture what is folded.
    2. Graph outputs keep their node: a runtime wants outputs to be made by one.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in topological order, so that chains fold in one run."""
        graph = model.graph
        modified = False
        for node in list(graph):
            if any(output.is_graph_output() for output in node.outputs):
                continue
            if any(source is not None and source.const_value is None for source in node.inputs):
                continue
            arrays = [constant_value(output) for output in node.outputs if output.name]
            if not arrays or any(array is None for array in arrays):
                continue
            for output, array in zip([output for output in node.outputs if output.name], arrays, strict=True):
                assert array is not None
                replacement = ir.Value(
                    name=output.name, const_value=ir.Tensor(np.ascontiguousarray(array), name=output.name)
                )
                replacement.shape = ir.Shape(array.shape)
                replacement.dtype = ir.DataType.from_numpy(array.dtype)
                output.replace_all_uses_with(replacement)
                output.name = None
                graph.initializers.add(replacement)
            graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
