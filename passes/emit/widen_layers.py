"""Write the weights of layers that run in float so that the runtime widens them once, when it opens the file."""

from dataclasses import dataclass

import onnx_ir as ir

from passes.emit.keep_float import widen
from passes.graph_pass import GraphPass
from passes.operators import WEIGHTED
from passes.surgery import standard_nodes


@dataclass(frozen=True, slots=True)
class WidenLayers(GraphPass):
    """Put a Cast and a Mul where a DequantizeLinear of a constant of these layers would run on every inference.

    The numbers are the same, and so is the size. A layer between a DequantizeLinear and a QuantizeLinear must not be
    named: ONNX Runtime would quantize its weights again, with one scale for all channels.
    """

    layers: frozenset[str]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Widen the constants of every layer that is named."""
        modified = False
        widened: dict[ir.Value, ir.Value] = {}
        for node in standard_nodes(model.graph, *WEIGHTED):
            if node.name in self.layers:
                for position in range(1, len(node.inputs)):
                    modified |= widen(model.graph, node, position, widened)
        return ir.passes.PassResult(model, modified)
