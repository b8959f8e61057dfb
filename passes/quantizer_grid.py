"""What a quantizer in a graph says: its grid, and the numbers that codes on it stand for.

    QuantizeLinear     code = clip(rint(x / scale) + zero_point, lowest, highest)
    DequantizeLinear   x    = (code - zero_point) * scale

Scales lie per tensor, per index of one axis, or per block of ``block_size`` indices of it. The algebra is that of ONNX,
in float32, so that what is computed here is what a runtime computes, bit for bit.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.constants import constant_value

_Number = TypeVar("_Number", np.float32, np.int32)
_DOMAINS = ("", "ai.onnx", "com.microsoft")  # onnxruntime has the same two under its own name, for 16 and 4 bits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """An affine grid.

    Attributes:
        scale: float32, of shape () per tensor, (n,) per index of an axis, or that of the codes per block of an axis.
        zero_point: int32, as ``scale``.
        dtype: type of the codes, a whole number.
        axis: along which scales differ.
        block: indices of the axis that share one scale; 0 where each has its own.

    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    dtype: ir.DataType
    axis: int = 1
    block: int = 0

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest code."""
        width = int(self.dtype.bitwidth)
        return (-(1 << (width - 1)), (1 << (width - 1)) - 1) if self.dtype.is_signed() else (0, (1 << width) - 1)

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest number of a grid per tensor."""
        low, high = self.real(np.array(self.limits, np.int64)).tolist()
        return low, high

    @property
    def key(self) -> tuple[float, int, ir.DataType]:
        """What two grids per tensor have in common exactly if their codes mean the same."""
        return float(self.scale), int(self.zero_point), self.dtype

    def real(self, codes: NDArray[np.generic]) -> NDArray[np.float32]:
        """Numbers of codes of any shape."""
        zero = _along(self.zero_point, codes.shape, self)
        return np.asarray((codes.astype(np.int32) - zero).astype(np.float32) * _along(self.scale, codes.shape, self))

    def codes(self, numbers: NDArray[np.generic]) -> NDArray[np.generic]:
        """Codes of numbers of any shape, in the grid's own type."""
        low, high = self.limits
        steps = numbers.astype(np.float32) / _along(self.scale, numbers.shape, self)
        wanted = np.rint(steps).astype(np.float64) + _along(self.zero_point, numbers.shape, self)
        return np.asarray(np.clip(wanted, low, high).astype(np.int32).astype(self.dtype.numpy()))


def _along(parameter: NDArray[_Number], shape: tuple[int, ...], grid: Grid) -> NDArray[_Number]:
    """Give a scale or a zero point the shape in which it meets codes."""
    if parameter.ndim == 0:
        return parameter
    axis = grid.axis % len(shape)
    if grid.block:
        repeated = np.repeat(parameter, grid.block, axis)
        return repeated[(slice(None),) * axis + (slice(shape[axis]),)]
    return parameter.reshape([-1 if position == axis else 1 for position in range(len(shape))])


def is_quantizer(node: ir.Node, *op_types: str) -> bool:
    """Tell whether the node is a QuantizeLinear or DequantizeLinear (or that of them which is named)."""
    return node.op_type in (op_types or ("QuantizeLinear", "DequantizeLinear")) and node.domain in _DOMAINS


def grid_of(node: ir.Node) -> Grid | str:
    """Read the grid of a QuantizeLinear or DequantizeLinear, or say why it has none that is known."""
    dtype = _code_type(node)
    if dtype is None or not dtype.is_integer() or dtype.bitwidth > 32:
        return f"its codes are {dtype.name if dtype else 'of a type that the file does not tell'}; wanted whole numbers"
    steps = known_value(node.inputs[1])
    if steps is None:
        return "its scale is computed at run time"
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = np.zeros(steps.shape, np.int32) if given is None else known_value(given)
    if zero is None:
        return "its zero point is computed at run time"
    scale, zero = np.asarray(steps, np.float32), np.asarray(zero.astype(np.int32))
    if not (scale > 0).all() or not np.isfinite(scale).all():
        return f"its scale must be positive and finite, got {scale.reshape(-1)[:4].tolist()}"
    if scale.shape != zero.shape and zero.size != 1:
        return f"its zero point has shape {zero.shape}, its scale {scale.shape}"
    block = node.attributes.get_int("block_size", 0)
    if not block and scale.size == 1:  # per tensor, however it is written
        return Grid(scale=np.asarray(scale.reshape(())), zero_point=np.asarray(zero.reshape(())), dtype=dtype)
    axis = node.attributes.get_int("axis", 1)
    zero = np.asarray(np.broadcast_to(zero, scale.shape), np.int32)
    return Grid(scale=scale, zero_point=zero, dtype=dtype, axis=axis, block=block)


def _code_type(node: ir.Node) -> ir.DataType | None:
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and (known := _type_of(zero)) is not None:
        return known
    if node.op_type == "DequantizeLinear":
        return _type_of(node.inputs[0])
    named = node.attributes.get_int("output_dtype", 0)
    return ir.DataType(named) if named else ir.DataType.UINT8


def _type_of(value: ir.Value | None) -> ir.DataType | None:
    """Type of codes, found where they are made if nothing nearer tells."""
    while value is not None:
        if value.const_value is not None:
            return value.const_value.dtype
        if value.dtype is not None:
            return value.dtype
        node = value.producer()
        if node is None:
            return None
        if is_quantizer(node, "QuantizeLinear"):
            return _code_type(node)
        if node.op_type == "Cast":
            return ir.DataType(node.attributes.get_int("to"))
        value = node.inputs[0] if node.inputs else None
    return None


def known_value(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Value of a constant, or None; unlike ``constant_value`` it can be asked of anything in a deep network."""
    pending, seen = [value], set[ir.Value]()
    while pending:
        one = pending.pop()
        if one is None or one in seen or one.const_value is not None:
            continue
        seen.add(one)
        node = one.producer()
        if node is None:
            return None
        pending.extend(node.inputs)
    return constant_value(value)


def constants_of(graph: ir.Graph) -> frozenset[ir.Value]:
    """All values that do not depend on an input of the graph, found in one walk down."""
    found: set[ir.Value] = {value for value in graph.initializers.values() if value.const_value is not None}
    for node in graph:
        if all(value is None or value in found or value.const_value is not None for value in node.inputs):
            found.update(node.outputs)
    return frozenset(found)


def constant_codes(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Codes that are stored, unpacked, or made by a quantizer of a constant; ask the quick ``constants_of`` first."""
    node = None if value is None else value.producer()
    if node is None or not is_quantizer(node, "QuantizeLinear"):
        return constant_value(value)
    grid, numbers = grid_of(node), constant_value(node.inputs[0])
    return None if numbers is None or isinstance(grid, str) else grid.codes(numbers)
