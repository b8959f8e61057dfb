"""How an operator reads its node: attributes, constant-like inputs, element types.

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
# Name, the schema versions that this builder serves, builder, positions of the inputs that are read as host numbers.
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
    message = f"{describe(node)} cannot be executed: {reason}"
    raise UnsupportedModelError(message)


def integer(node: ir.Node, name: str, default: int = 0) -> int:
    """Read an integer attribute, or ``default``."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def integers(node: ir.Node, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
    """Read an integer-list attribute, or ``default``."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return None if default is None else tuple(default)
    return tuple(int(value) for value in attribute.as_ints())


def number(node: ir.Node, name: str, default: float = 0.0) -> float:
    """Read a float attribute, or ``default``."""
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.as_float())


def text(node: ir.Node, name: str, default: str = "") -> str:
    """Read a string attribute, or ``default``."""
    attribute = node.attributes.get(name)
    return default if attribute is None else str(attribute.as_string())


def element_type(node: ir.Node, name: str, default: ir.DataType = ir.DataType.FLOAT) -> ir.DataType:
    """Read an element-type attribute (``to``, ``dtype``); refuse types that torch tensors cannot hold here."""
    attribute = node.attributes.get(name)
    kind = default if attribute is None else ir.DataType(attribute.as_int())
    if kind not in TORCH_TYPES:
        refuse(node, f"element type {kind.name} has no tensor type here")
    return kind


def has_input(node: ir.Node, position: int) -> bool:
    """Tell whether an optional input is given."""
    return position < len(node.inputs) and node.inputs[position] is not None


def same(function: Kernel) -> Builder:
    """Make the builder of an operator without attributes: its kernel is ``function`` itself."""
    return lambda node: function


class Numbers:
    """Reads a small tensor as Python numbers, once per tensor: constant inputs cost one identity check per run.

    The tensor must not be changed in place afterwards; put a new tensor into ``initializers`` instead.
    """

    def __init__(self) -> None:
        self._int_source: torch.Tensor | None = None
        self._float_source: torch.Tensor | None = None
        self._ints: tuple[int, ...] = ()
        self._floats: tuple[float, ...] = ()

    def ints(self, tensor: torch.Tensor) -> tuple[int, ...]:
        """Read ``tensor`` as integers, flattened."""
        if tensor is not self._int_source:
            self._ints = tuple(int(value) for value in tensor.detach().reshape(-1).tolist())
            self._int_source = tensor
        return self._ints

    def floats(self, tensor: torch.Tensor) -> tuple[float, ...]:
        """Read ``tensor`` as floats, flattened."""
        if tensor is not self._float_source:
            self._floats = tuple(float(value) for value in tensor.detach().reshape(-1).tolist())
            self._float_source = tensor
        return self._floats
