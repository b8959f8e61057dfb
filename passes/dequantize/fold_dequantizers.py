"""Dequantize quantized constants.

    codes, scale, zero_point -> DequantizeLinear -> w      ->   w = (codes - zero_point) * scale, an initializer

Codes may be stored packed, behind a Cast or as digits of words, and the scale of a bias may be a product of two others:
constant expressions are computed. The result is exactly what a runtime computes when it loads the file.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from passes.graph_pass import NodePass, Outcome
from passes.quantizer_grid import constant_codes, constants_of, grid_of, is_quantizer


class FoldDequantizers(NodePass):
    """Fold every DequantizeLinear whose codes are constant; refused where its scale or zero point is not.

    ``folded`` holds the initializers that were made by the last call. A node that makes a graph output stays.
    """

    folded: Sequence[ir.Value] = ()

    def call(self, model: ir.Model) -> Outcome:
        """Fold all nodes."""
        self.folded, self._constants = (), constants_of(model.graph)
        return super().call(model)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool | str:
        """Fold the node."""
        if not is_quantizer(node, "DequantizeLinear") or node.outputs[0].is_graph_output():
            return False
        if node.inputs[0] not in self._constants:
            return False
        grid, codes = grid_of(node), constant_codes(node.inputs[0])
        if isinstance(grid, str):
            return grid
        if codes is None:
            return "its codes cannot be computed"
        self.folded = (*self.folded, _replace(graph, node, grid.real(codes)))
        return True


def _replace(graph: ir.Graph, node: ir.Node, numbers: np.ndarray) -> ir.Value:
    output = node.outputs[0]
    tensor = ir.Tensor(np.ascontiguousarray(numbers).reshape(numbers.shape), name=output.name)
    made = ir.Value(
        name=output.name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(numbers.shape), const_value=tensor
    )
    output.replace_all_uses_with(made)
    output.name = None
    graph.remove(node, safe=True)
    graph.initializers.add(made)
    return made
