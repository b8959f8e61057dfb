"""Write activations in signed codes instead of unsigned ones.

    QuantizeLinear (uint8, zero point z)   ->   QuantizeLinear (int8, zero point z - 128)

The numbers stay the same. Which of the two a runtime has kernels for depends on the processor.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.graph_pass import GraphPass
from passes.surgery import input_at, standard_nodes

_MIDDLE = 128


@dataclass(frozen=True, slots=True)
class SignCodes(GraphPass):
    """Turn all uint8 codes of a QDQ graph into int8; weights are signed already."""

    def requires(self, model: ir.Model) -> None:
        """Raise PreconditionError for codes at the border of the graph, and quantizers without a zero point."""
        border = [value for value in (*model.graph.inputs, *model.graph.outputs) if value.dtype == ir.DataType.UINT8]
        if border:
            raise ir.passes.PreconditionError(
                f"SignCodes requires float inputs and outputs, got uint8 in '{border[0].name}', which is the user's"
            )
        for node in standard_nodes(model.graph, "QuantizeLinear"):
            if input_at(node, 2) is None:
                raise ir.passes.PreconditionError(
                    f"SignCodes requires a zero point in every QuantizeLinear, got none in '{node.name}'"
                )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Shift the constants, and change the types of all values that are computed from them."""
        constants = [value for value in model.graph.initializers.values() if value.dtype == ir.DataType.UINT8]
        for value in constants:
            assert value.const_value is not None
            codes = value.const_value.numpy().astype(np.int16) - _MIDDLE
            value.const_value = ir.tensor(codes.astype(np.int8), name=value.name)
            value.type = ir.TensorType(ir.DataType.INT8)
        for node in model.graph:
            for made in node.outputs:
                if made.dtype == ir.DataType.UINT8:
                    made.type = ir.TensorType(ir.DataType.INT8)
        return ir.passes.PassResult(model, bool(constants))
