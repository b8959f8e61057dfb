"""Keep large weights away from a tool that copies a whole model several times, and share them between two models."""

from collections.abc import Callable

import onnx
import onnx_ir as ir

_LARGE = 1 << 20  # bytes of one initializer
_MANY = 1 << 26  # bytes of them all; below it copies are cheap, and the tool may fold what it likes


def with_weights_aside(model: ir.Model, tool: Callable[[onnx.ModelProto], onnx.ModelProto]) -> ir.Model:
    """Return what a tool makes of a model, large weights of a large one standing as graph inputs meanwhile.

    The tool must keep the names of inputs. What it makes of weights, as of a constant that is transposed, is left to
    the passes behind it. The result has the weights' tensors in common with ``model``, which is otherwise not changed:
    they become arrays, which all that read them share, where a protobuf message makes a copy for each.
    """
    large = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes >= _LARGE and not value.is_graph_output()
    }
    if sum(tensor.nbytes for tensor in large.values()) < _MANY:
        return ir.from_proto(tool(ir.to_proto(model)))
    for name, tensor in large.items():
        large[name] = model.graph.initializers[name].const_value = ir.Tensor(tensor.numpy(), name=name)
    small = model.clone()
    for name, tensor in large.items():
        value = small.graph.initializers.pop(name)
        value.const_value, value.shape, value.dtype = None, ir.Shape(tensor.shape.numpy()), tensor.dtype
        if not value.is_graph_input():
            small.graph.inputs.append(value)
    made = ir.from_proto(tool(ir.to_proto(small)))
    for value in [value for value in made.graph.inputs if value.name in large]:
        made.graph.inputs.remove(value)
        value.const_value = large[str(value.name)]
        made.graph.initializers.add(value)
    return made
