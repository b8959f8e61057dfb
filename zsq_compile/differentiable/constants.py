"""ONNX tensors as torch tensors."""

import numpy as np
import onnx_ir as ir
import torch

from zsq_compile.differentiable.arguments import TORCH_TYPES
from zsq_compile.errors import UnsupportedModelError


def to_tensor(constant: ir.TensorProtocol) -> torch.Tensor:
    """Copy an ONNX tensor, of an element type in TORCH_TYPES, into a torch tensor on the CPU."""
    kind = constant.dtype
    if kind not in TORCH_TYPES:
        raise UnsupportedModelError(
            f"tensor {constant.name!r} has element type {kind.name}, which cannot be executed in torch"
        )
    array = np.array(constant.numpy())
    if kind == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if kind.bitwidth < 8:
        array = array.astype(np.int8 if kind.is_signed() else np.uint8)
    return torch.from_numpy(array)
