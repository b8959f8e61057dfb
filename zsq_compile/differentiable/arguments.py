"""How operators read their nodes: attributes, inputs of Python numbers, element types.

A *builder* is called once per node and returns a *kernel*, which is called at every run with the node's inputs in order
(None for an optional input that is left out; missing trailing inputs are simply not passed).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import onnx_ir as ir
import torch

from zsq_compile.errors import UnsupportedModelError

Kernel: TypeAlias = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]
Builder: TypeAlias = Callable[[ir.Node], Kernel]
Input: TypeAlias = torch.Tensor | None  # of a kernel, None where it is left out
# Name, the schema versions that the builder serves, builder, positions of the inputs that are read as Python numbers.
Row: TypeAlias = tuple[str, tuple[int, ...], Builder] | tuple[str, tuple[int, ...], Builder, tuple[int, ...]]

TORCH_TYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.BOOL: torch.bool,
    # Four- and two-bit codes are held one per byte.
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.INT2: torch.int8,
    ir.DataType.UINT2: torch.uint8,
}


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table: ``host`` are the positions of inputs that kernels read as Python numbers."""

    build: Builder
    host: tuple[int, ...] = ()


def describe(node: ir.Node) -> str:
    """Name a node for an error message."""
    domain = f"{node.domain}." if node.domain else ""
    return f"node {node.name or '(unnamed)'!r} ({domain}{node.op_type})"


def refuse(node: ir.Node, reason: str) -> NoReturn:
    """Raise UnsupportedModelError for a node whose operator is known but not this use of it."""
    raise UnsupportedModelError(f"{describe(node)} cannot be executed: {reason}")


def integer(node: ir.Node, name: str, default: int = 0) -> int:
    """Read an attribute."""
    return node.attributes.get_int(name, default)


def integers(node: ir.Node, name: str) -> tuple[int, ...]:
    """Read an attribute, () where it is left out."""
    return tuple(node.attributes.get_ints(name, ()))


def number(node: ir.Node, name: str, default: float = 0.0) -> float:
    """Read an attribute."""
    return node.attributes.get_float(name, default)


def text(node: ir.Node, name: str, default: str = "") -> str:
    """Read an attribute."""
    return node.attributes.get_string(name, default)


def element_type(node: ir.Node, name: str, default: ir.DataType = ir.DataType.FLOAT) -> ir.DataType:
    """Read an element-type attribute (``to``, ``dtype``); refuse types that torch tensors cannot hold here."""
    kind = ir.DataType(integer(node, name, default.value))
    if kind not in TORCH_TYPES:
        refuse(node, f"element type {kind.name} has no tensor type here")
    return kind


def same(function: Kernel) -> Builder:
    """Make the builder of an operator without attributes: its kernel is ``function`` itself."""
    return lambda node: function


class Numbers:
    """Reads a small input as Python numbers, flattened, once per tensor: later runs cost one identity check.

    The tensor must not be changed in place afterwards; put a new tensor into ``initializers`` instead.

    Args:
        default: numbers where the input is left out; those of the attribute in operator versions that have one.

    """

    def __init__(self, default: Sequence[float] = ()) -> None:
        self._default = tuple(default)
        self._ints: tuple[torch.Tensor | None, tuple[int, ...]] = None, ()
        self._floats: tuple[torch.Tensor | None, tuple[float, ...]] = None, ()

    def ints(self, tensor: torch.Tensor | None) -> tuple[int, ...]:
        """Read integers."""
        if tensor is None:
            return tuple(map(int, self._default))
        if tensor is not self._ints[0]:
            self._ints = tensor, tuple(map(int, tensor.detach().reshape(-1).tolist()))
        return self._ints[1]

    def floats(self, tensor: torch.Tensor | None) -> tuple[float, ...]:
        """Read floats."""
        if tensor is None:
            return self._default
        if tensor is not self._floats[0]:
            self._floats = tensor, tuple(map(float, tensor.detach().reshape(-1).tolist()))
        return self._floats[1]
