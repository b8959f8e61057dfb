"""ONNX tensors as torch tensors."""

import ctypes

import numpy as np
import onnx_ir as ir
import torch

from zsq_compile.differentiable.arguments import TORCH_TYPES
from zsq_compile.errors import UnsupportedModelError

_SHARED = 1 << 20  # bytes from which on a constant is not copied


def to_tensor(constant: ir.TensorProtocol) -> torch.Tensor:
    """Return an ONNX tensor, of an element type in TORCH_TYPES, as a torch tensor on the CPU, not to be changed.

    Small ones are copied; large float ones have their memory in common with the constant where that has any.
    """
    kind = constant.dtype
    if kind not in TORCH_TYPES:
        raise UnsupportedModelError(
            f"tensor {constant.name!r} has element type {kind.name}, which cannot be executed in torch"
        )
    array = constant.numpy()
    if kind == ir.DataType.FLOAT and array.nbytes >= _SHARED and array.flags.c_contiguous:
        return _share(array)
    array = np.array(array)
    if kind == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if kind.bitwidth < 8:
        array = array.astype(np.int8 if kind.is_signed() else np.uint8)
    return torch.from_numpy(array)


def _share(array: np.ndarray) -> torch.Tensor:
    """Make a tensor of a float32 array's memory; torch does not know memory that is for reading only."""
    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    memory.owner = array  # type: ignore[attr-defined]
    return torch.frombuffer(memory, dtype=torch.float32).reshape(array.shape)
