"""Give every layer weights of its own.

    Conv(x, w), Conv(y, w)  ->  Conv(x, w), Conv(y, w')      w' a copy of w

Two layers that share a weight differ in their inputs' scales, so folding, equalising and quantizing must tell them
apart.
"""

import onnx_ir as ir

from passes.surgery import add_constant, is_standard


class OwnWeights(ir.passes.InPlacePass):
    """Copy an initializer that several inputs read for each layer that reads it as weight or bias.

    The last reader keeps the initializer itself, unless it is a graph output; readers that are no layers always keep
    it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visit all layers once."""
        modified = False
        for node in model.graph:
            if not is_standard(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
                continue
            for position, kind in ((1, "weight"), (2, "bias")):
                value = node.inputs[position] if len(node.inputs) > position else None
                if value is not None and _is_shared(value):
                    assert value.const_value is not None
                    copy = add_constant(model.graph, f"{node.name}.{kind}", value.const_value.numpy())
                    node.replace_input_with(position, copy)
                    modified = True
        return ir.passes.PassResult(model, modified)


def _is_shared(value: ir.Value) -> bool:
    return (
        value.const_value is not None and value.is_initializer() and (len(value.uses()) > 1 or value.is_graph_output())
    )
