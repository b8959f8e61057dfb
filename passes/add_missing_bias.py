"""Give layers without a bias a zero one.

    Conv(x, w)  ->  Conv(x, w, 0)        Gemm(a, b)  ->  Gemm(a, b, 0)

An integer kernel adds its int32 bias for nothing, and bias correction needs a place to put its correction.
"""

import numpy as np
import onnx_ir as ir


class AddMissingBias(ir.passes.InPlacePass):
    """Add a zero bias to every Conv and Gemm whose weight is constant and whose bias is absent."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visit all nodes once."""
        modified = False
        for node in list(model.graph):
            if node.op_type in ("Conv", "Gemm") and node.domain == "":
                modified |= _add_bias(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _add_bias(graph: ir.Graph, node: ir.Node) -> bool:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return False
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return False
    transposed = node.attributes.get("transB")
    axis = 0 if node.op_type == "Conv" or (transposed is not None and transposed.value) else 1
    name = f"{node.name}_bias"
    channels = weight.const_value.shape.numpy()[axis]
    tensor = ir.tensor(np.zeros(channels, np.float32), name=name)
    bias = ir.Value(name=name, const_value=tensor, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([channels]))
    graph.register_initializer(bias)
    node.resize_inputs(3)
    node.replace_input_with(2, bias)
    return True
