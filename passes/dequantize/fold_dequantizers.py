"""Turn quantized constants into the numbers that they stand for.

    codes, scale, zero_point -> DequantizeLinear -> w      ->   w = (codes - zero_point) * scale, an initializer

Codes may be stored packed, behind a Cast or as digits of words, and the scale of a bias may be a product of two others:
all that is constant is computed. The result is exact: it is what a runtime computes when it loads the file.
"""

import numpy as np
import onnx_ir as ir

from passes.outcome import Outcome
from passes.plan import Refusal
from passes.quantizer_grid import constant_codes, constants_of, grid_of, is_quantizer


class FoldDequantizers(ir.passes.InPlacePass):
    """Fold every DequantizeLinear whose codes are constant.

    ``folded`` holds the initializers that were made by the last call. A node that makes a graph output stays.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folded: list[ir.Value] = []

    def call(self, model: ir.Model) -> Outcome:
        """Fold; the refusals name those with constant codes and a grid that is not constant."""
        self.folded = []
        refusals: list[Refusal] = []
        constants = constants_of(model.graph)
        for node in list(model.graph):
            if not is_quantizer(node, "DequantizeLinear") or node.outputs[0].is_graph_output():
                continue
            if node.inputs[0] not in constants:
                continue
            grid, codes = grid_of(node), constant_codes(node.inputs[0])
            if isinstance(grid, str) or codes is None:
                reason = grid if isinstance(grid, str) else "its codes cannot be computed"
                refusals.append(Refusal(where=node.name or "", op_type=node.op_type, reason=reason))
                continue
            self.folded.append(_replace(model.graph, node, grid.real(codes)))
        return Outcome(model, bool(self.folded), tuple(refusals))


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
