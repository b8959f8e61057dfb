"""Operators that make tensors: constants, ranges, masks."""

import math

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import TORCH_TYPES, Kernel, Numbers, Row, element_type, integer, refuse, same
from zsq_compile.differentiable.constants import to_tensor


def _constant(node: ir.Node) -> Kernel:
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        if name in node.attributes:
            listed = torch.tensor(node.attributes[name].value, dtype=torch.int64 if "int" in name else torch.float32)
            return lambda: listed
    if "value" not in node.attributes:
        refuse(node, "only dense numeric constants have a tensor here")
    tensor = to_tensor(node.attributes["value"].as_tensor())
    return lambda: tensor


def _constant_of_shape(node: ir.Node) -> Kernel:
    attribute = node.attributes.get("value")
    filling = torch.zeros(1) if attribute is None else to_tensor(attribute.as_tensor())
    numbers = Numbers()
    return lambda shape: filling.reshape(1).repeat(math.prod(numbers.ints(shape))).reshape(numbers.ints(shape))


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return (start + torch.arange(count, device=start.device) * delta).to(start.dtype)


def _eye_like(node: ir.Node) -> Kernel:
    diagonal = integer(node, "k")
    kind = TORCH_TYPES[element_type(node, "dtype")] if "dtype" in node.attributes else None

    def run(x: Tensor) -> Tensor:
        rows, columns = x.shape
        offset = torch.arange(columns, device=x.device) - torch.arange(rows, device=x.device)[:, None]
        return (offset == diagonal).to(kind or x.dtype)

    return run


def _trilu(node: ir.Node) -> Kernel:
    cut = torch.triu if integer(node, "upper", 1) else torch.tril
    numbers = Numbers((0,))
    return lambda x, k=None: cut(x, numbers.ints(k)[0])


ROWS: tuple[Row, ...] = (
    ("Constant", (1, 9, 11, 12, 13, 19, 21, 23, 24, 25), _constant),
    ("ConstantOfShape", (9, 20, 21, 23, 24, 25), _constant_of_shape, (0,)),
    ("Range", (11, 27), same(_range)),
    ("EyeLike", (9, 22), _eye_like),
    ("Trilu", (14,), _trilu, (1,)),
)
