"""The arithmetic of quantizers: codes of numbers, numbers of codes, and what a quantizer in a graph does.

    QuantizeLinear     code = clip(rint(x / scale) + zero_point, lowest, highest)
    DequantizeLinear   x    = (code - zero_point) * scale

Scales are per tensor, per index of one axis, or per block of ``block_size`` indices of it. ``Grid`` computes in float32
like ONNX, so that its results are a runtime's, bit for bit; ``quantize_array``, which chooses the codes of weights,
divides in float64.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from backends.target import NumberFormat
from passes.constants import constant_value
from passes.operators import QUANTIZERS, STANDARD_DOMAINS
from passes.plan import Scale
from passes.surgery import input_at

_Number = TypeVar("_Number", bound=np.generic)
_DOMAINS = (*STANDARD_DOMAINS, "com.microsoft")  # onnxruntime has the same two under its own name, for 16 and 4 bits


def quantize_array(
    array: NDArray[np.floating], scale: Scale, number_format: NumberFormat, axis: int | None = None
) -> NDArray[np.int32]:
    """Round numbers of any shape to codes; the scale is per tensor, or per channel along ``axis``."""
    step, zero_point = along_axis(scale.scale, array.ndim, axis), along_axis(scale.zero_point, array.ndim, axis)
    codes = np.rint(array.astype(np.float64) / step) + zero_point
    return np.asarray(np.clip(codes, number_format.qmin, number_format.qmax), np.int32)


def dequantize_array(codes: NDArray[np.generic], scale: Scale, axis: int | None = None) -> NDArray[np.float32]:
    """Numbers of codes of any shape; see ``quantize_array``."""
    step, zero_point = along_axis(scale.scale, codes.ndim, axis), along_axis(scale.zero_point, codes.ndim, axis)
    return _real(codes, step, zero_point)


def _real(codes: NDArray[np.generic], step: NDArray[np.float32], zero: NDArray[np.int32]) -> NDArray[np.float32]:
    return np.asarray((codes.astype(np.int32) - zero).astype(np.float32) * step, np.float32)


def along_axis(parameter: NDArray[_Number], rank: int, axis: int | None) -> NDArray[_Number]:
    """Give a scale or zero point per channel the shape in which it meets codes of a rank."""
    if axis is None or parameter.ndim == 0:
        return parameter
    return parameter.reshape([-1 if position == axis % rank else 1 for position in range(rank)])


def code_range(dtype: ir.DataType) -> tuple[int, int]:
    """Lowest and highest number of an integer type."""
    width = int(dtype.bitwidth)
    return (-(1 << (width - 1)), (1 << (width - 1)) - 1) if dtype.is_signed() else (0, (1 << width) - 1)


def storage_type(bits: int, signed: bool) -> ir.DataType:
    """ONNX type that holds the codes of activations: at least a byte, see ``insert_qdq``."""
    return ir.DataType[f"{'' if signed else 'U'}INT{8 if bits <= 8 else 16}"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """The numbers that a quantizer can represent.

    Attributes:
        scale: float32, of shape () per tensor, (n,) per index of an axis, or that of the codes per block of an axis.
        zero_point: int32, as ``scale``.
        dtype: integer type of the codes.
        axis: along which scales differ.
        block: indices of the axis that share one scale; 0 where each has its own.

    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    dtype: ir.DataType
    axis: int = 1
    block: int = 0

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest number; per tensor only."""
        low, high = self.real(np.array(code_range(self.dtype), np.int64)).tolist()
        return low, high

    @property
    def key(self) -> tuple[float, int, ir.DataType]:
        """Equal for two quantizers whose codes mean the same; per tensor only."""
        return float(self.scale), int(self.zero_point), self.dtype

    def real(self, codes: NDArray[np.generic]) -> NDArray[np.float32]:
        """Numbers of codes of any shape."""
        return _real(codes, self._spread(self.scale, codes.shape), self._spread(self.zero_point, codes.shape))

    def codes(self, numbers: NDArray[np.generic]) -> NDArray[np.generic]:
        """Codes of numbers of any shape, of type ``dtype``."""
        steps = numbers.astype(np.float32) / self._spread(self.scale, numbers.shape)
        wanted = np.rint(steps).astype(np.float64) + self._spread(self.zero_point, numbers.shape)
        return np.asarray(np.clip(wanted, *code_range(self.dtype)).astype(np.int32).astype(self.dtype.numpy()))

    def _spread(self, parameter: NDArray[_Number], shape: tuple[int, ...]) -> NDArray[_Number]:
        if parameter.ndim == 0 or not self.block:
            return along_axis(parameter, len(shape), self.axis)
        axis = self.axis % len(shape)
        repeated = np.repeat(parameter, self.block, axis)
        return repeated[(slice(None),) * axis + (slice(shape[axis]),)]


def is_quantizer(node: ir.Node, *op_types: str) -> bool:
    """Tell whether the node is a QuantizeLinear or DequantizeLinear, or the one of them that is named."""
    return node.op_type in (op_types or QUANTIZERS) and node.domain in _DOMAINS


def grid_of(node: ir.Node) -> Grid | str:
    """Read the grid of a QuantizeLinear or DequantizeLinear; return the reason where it is not known."""
    dtype = _code_type(node)
    if dtype is None or not dtype.is_integer() or dtype.bitwidth > 32:
        return f"its codes are {dtype.name if dtype else 'of an unknown type'}; wanted integers of 32 bits at most"
    steps = known_value(node.inputs[1])
    if steps is None:
        return "its scale is computed at run time"
    given = input_at(node, 2)
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
    zero = input_at(node, 2)
    if zero is not None and (known := _type_of(zero)) is not None:
        return known
    if node.op_type == "DequantizeLinear":
        return _type_of(node.inputs[0])
    named = node.attributes.get_int("output_dtype", 0)
    return ir.DataType(named) if named else ir.DataType.UINT8


def _type_of(value: ir.Value | None) -> ir.DataType | None:
    """Type of codes: that of the value, or of the quantizer or Cast that they come from."""
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
    """Value of a constant, or None; unlike ``constant_value`` it does not recurse where the value is none."""
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
    """Return all values that do not depend on an input of the graph."""
    found: set[ir.Value] = {value for value in graph.initializers.values() if value.const_value is not None}
    for node in graph:
        if all(value is None or value in found or value.const_value is not None for value in node.inputs):
            found.update(node.outputs)
    return frozenset(found)


def constant_codes(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Codes that are stored, unpacked, or made by a quantizer of a constant; test with ``constants_of`` first."""
    node = None if value is None else value.producer()
    if node is None or not is_quantizer(node, "QuantizeLinear"):
        return constant_value(value)
    grid, numbers = grid_of(node), constant_value(node.inputs[0])
    return None if numbers is None or isinstance(grid, str) else grid.codes(numbers)
