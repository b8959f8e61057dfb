"""Count multiplications, elements and parameters of a network, from the shapes in its graph."""

import math
from dataclasses import dataclass

import onnx_ir as ir

from passes.operators import WEIGHTED
from passes.surgery import input_at, is_standard


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Multiplications of layers, elements of all nodes' outputs, for one sample; floating-point parameters."""

    multiplications: int
    elements: int
    parameters: int


def layer_work(model: ir.Model) -> dict[str, int]:
    """Count the multiplications of every convolution and matrix product, by name; an open size counts as 1."""
    return {str(node.name): work for node in model.graph if (work := _multiplications(node))}


def count_work(model: ir.Model) -> Work:
    """Count the work of a model whose shapes are known but for the batch."""
    batch = next((_first(value) for value in model.graph.inputs), 1)
    multiplications, elements = 0, 0
    for node in model.graph:
        elements += sum(_elements(value) for value in node.outputs if value.name)
        multiplications += _multiplications(node)
    constants = (value.const_value for value in model.graph.initializers.values())
    return Work(
        multiplications=multiplications // batch,
        elements=elements // batch,
        parameters=sum(tensor.size for tensor in constants if tensor is not None and tensor.dtype.is_floating_point()),
    )


def _multiplications(node: ir.Node) -> int:
    weight = input_at(node, 1)
    if weight is None or weight.shape is None or not is_standard(node, *WEIGHTED):
        return 0
    sizes = [size if isinstance(size, int) else 1 for size in weight.shape]
    if is_standard(node, "Conv"):
        return _elements(node.outputs[0]) * math.prod(sizes[1:])
    if is_standard(node, "ConvTranspose"):  # each input element is multiplied with the filters of its group
        data = node.inputs[0]
        return 0 if data is None else _elements(data) * math.prod(sizes[1:])
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    depth = sizes[-1] if transposed or len(sizes) == 1 else sizes[-2]
    return _elements(node.outputs[0]) * depth


def _elements(value: ir.Value) -> int:
    return 0 if value.shape is None else math.prod(size if isinstance(size, int) else 1 for size in value.shape)


def _first(value: ir.Value) -> int:
    size = value.shape[0] if value.shape is not None and len(value.shape) else 1
    return size if isinstance(size, int) and size > 0 else 1
