"""Write activations in signed codes instead of unsigned ones: the same grid, 128 lower.

    QuantizeLinear (uint8, zero point z)   ->   QuantizeLinear (int8, zero point z - 128)

Every number stays what it was. Which of the two a runtime has kernels for depends on the processor.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from passes.surgery import is_standard

_MIDDLE = 128


@dataclass(frozen=True, slots=True)
class SignCodes(ir.passes.InPlacePass):
    """Turn all uint8 codes of a QDQ graph into int8; weights are signed already."""

    def requires(self, model: ir.Model) -> None:
        """Refuse codes at the border of the graph, and quantizers without a zero point, whose type is not told."""
        border = [value for value in (*model.graph.inputs, *model.graph.outputs) if value.dtype == ir.DataType.UINT8]
        if border:
            raise ir.passes.PreconditionError(
                f"SignCodes wants float inputs and outputs, got uint8 in '{border[0].name}', which is the user's"
            )
        for node in model.graph:
            if is_standard(node, "QuantizeLinear") and (len(node.inputs) < 3 or node.inputs[2] is None):
                raise ir.passes.PreconditionError(
                    f"SignCodes wants a zero point in every QuantizeLinear, got none in '{node.name}'"
                )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Shift constants, and the types of everything that is computed from them."""
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
