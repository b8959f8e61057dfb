"""ONNX tensors as torch tensors."""

import numpy as np
import onnx_ir as ir
import torch

from zsq_compile.differentiable.arguments import TORCH_TYPES
from zsq_compile.errors import UnsupportedModelError

_SIGNED_CODES = (ir.DataType.INT4, ir.DataType.INT2)
_UNSIGNED_CODES = (ir.DataType.UINT4, ir.DataType.UINT2)


def to_tensor(constant: ir.TensorProtocol) -> torch.Tensor:
    """Copy an ONNX tensor into a torch tensor on the CPU; 4- and 2-bit codes become int8 or uint8.

    Raises UnsupportedModelError for element types that torch tensors cannot hold here.
    """
    kind = constant.dtype
    if kind not in TORCH_TYPES:
        message = f"tensor {constant.name!r} has element type {kind.name}, which cannot be executed in torch"
        raise UnsupportedModelError(message)
    array = constant.numpy()
    if kind == ir.DataType.BFLOAT16:
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    if kind in _SIGNED_CODES:
        array = array.astype(np.int8)
    elif kind in _UNSIGNED_CODES:
        array = array.astype(np.uint8)
    return torch.from_numpy(np.array(array))
