"""Pooling."""

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from passes.windows import Sizes
from zsq_compile.differentiable.arguments import Input, Kernel, Row, integer, integers, refuse, same
from zsq_compile.differentiable.windows import Padding, split_pads, window_padding

_MAX_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_MAX_POOLS_WITH_INDICES: dict[int, Callable[..., tuple[Tensor, Tensor]]] = {
    1: functional.max_pool1d_with_indices,
    2: functional.max_pool2d_with_indices,
    3: functional.max_pool3d_with_indices,
}


class _Window:
    """Geometry of a pooling node."""

    def __init__(self, node: ir.Node) -> None:
        kernel = integers(node, "kernel_shape")
        self.kernel: Sizes = kernel
        self.strides: Sizes = integers(node, "strides") or (1,) * len(kernel)
        self.dilations: Sizes = integers(node, "dilations") or (1,) * len(kernel)
        self.ceil = bool(integer(node, "ceil_mode"))
        self._padding: Padding = window_padding(node)

    def place(self, sizes: Sequence[int]) -> tuple[Sizes, Sizes, Sizes]:
        """Return begins, ends, and how far the last window extends beyond the padded end (``ceil_mode`` only)."""
        begins, ends = self._padding(sizes, self.kernel, self.strides, self.dilations)
        if not self.ceil:
            return begins, ends, (0,) * len(begins)
        over = []
        for axis, size in enumerate(sizes):
            span = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            padded = size + begins[axis] + ends[axis]
            count = -(-(padded - span) // self.strides[axis]) + 1
            if (count - 1) * self.strides[axis] >= size + begins[axis]:
                count -= 1  # a window that starts in the end padding is left out
            over.append(max((count - 1) * self.strides[axis] + span - padded, 0))
        return begins, ends, tuple(over)


def _max_pool(node: ir.Node) -> Kernel:
    window = _Window(node)
    with_indices = len(node.outputs) > 1
    column_major = bool(integer(node, "storage_order"))

    def run(x: Tensor) -> Tensor | tuple[Tensor, ...]:
        begins, ends, over = window.place(x.shape[2:])
        ends = tuple(end + more for end, more in zip(ends, over, strict=True))
        values = x if x.is_floating_point() else x.to(torch.float32)
        if begins != ends or any(2 * begin > size for begin, size in zip(begins, window.kernel, strict=True)):
            values = functional.pad(values, split_pads(begins, ends), value=-math.inf)
            begins = (0,) * len(begins)
        spatial = x.dim() - 2
        if with_indices:
            padded = tuple(values.shape[2:]) if values.shape != x.shape else None
            pooled, indices = _MAX_POOLS_WITH_INDICES[spatial](
                values, window.kernel, window.strides, begins, window.dilations
            )
            origin = window.place(x.shape[2:])[0]
            return pooled.to(x.dtype), _onnx_indices(indices, x.shape, padded, origin, column_major=column_major)
        pooled = _MAX_POOLS[spatial](values, window.kernel, window.strides, begins, window.dilations)
        return pooled if pooled.dtype == x.dtype or x.is_floating_point() else pooled.to(x.dtype)

    return run


def _onnx_indices(
    indices: Tensor, shape: Sequence[int], padded: Sizes | None, begins: Sizes, *, column_major: bool
) -> Tensor:
    """Convert torch's indices (within one padded channel) to ONNX's (within the whole unpadded tensor)."""
    sizes = tuple(shape[2:])
    coordinates: list[Tensor] = []
    rest = indices
    for size in reversed(padded or sizes):
        coordinates.insert(0, rest % size)
        rest = rest // size
    if padded is not None:
        coordinates = [place - begin for place, begin in zip(coordinates, begins, strict=True)]
    flat = torch.zeros_like(indices)
    for axis in reversed(range(len(sizes))) if column_major else range(len(sizes)):
        flat = flat * sizes[axis] + coordinates[axis]
    channel = torch.arange(shape[0] * shape[1], device=indices.device).reshape(shape[0], shape[1], *(1,) * len(sizes))
    return flat + channel * math.prod(sizes)


def _window_sum(x: Tensor, window: _Window) -> Tensor:
    """Sum over each window of an already padded tensor."""
    sizes = zip(window.kernel, window.strides, window.dilations, strict=True)
    for axis, (size, stride, dilation) in enumerate(sizes, start=2):
        span = (size - 1) * dilation + 1
        x = x.unfold(axis, span, stride)[..., ::dilation].sum(-1)
    return x


def _average_pool(node: ir.Node) -> Kernel:
    window = _Window(node)
    count_padding = bool(integer(node, "count_include_pad"))
    plain = all(dilation == 1 for dilation in window.dilations)

    def run(x: Tensor) -> Tensor:
        begins, ends, over = window.place(x.shape[2:])
        half = all(2 * begin <= size for begin, size in zip(begins, window.kernel, strict=True))
        if plain and half and begins == ends and not any(over):
            return _AVERAGE_POOLS[x.dim() - 2](x, window.kernel, window.strides, begins, False, count_padding)
        ones = x.new_ones((1, 1, *x.shape[2:]))
        ones = functional.pad(ones, split_pads(begins, ends), value=1.0 if count_padding else 0.0)
        ones = functional.pad(ones, split_pads((0,) * len(over), over))
        reach = tuple(end + more for end, more in zip(ends, over, strict=True))
        return _window_sum(functional.pad(x, split_pads(begins, reach)), window) / _window_sum(ones, window)

    return run


_AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def _lp_pool(node: ir.Node) -> Kernel:
    window, power = _Window(node), integer(node, "p", 2)

    def run(x: Tensor) -> Tensor:
        begins, ends, over = window.place(x.shape[2:])
        reach = tuple(end + more for end, more in zip(ends, over, strict=True))
        return _window_sum(functional.pad(x.abs() ** power, split_pads(begins, reach)), window) ** (1.0 / power)

    return run


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


def _global_average(x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


def _global_max(x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


def _global_lp(node: ir.Node) -> Kernel:
    power = integer(node, "p", 2)
    return lambda x: torch.linalg.vector_norm(x, power, _spatial(x), keepdim=True)


def _max_unpool(node: ir.Node) -> Kernel:
    kernel = integers(node, "kernel_shape")
    strides = integers(node, "strides") or (1,) * len(kernel)
    if any(integers(node, "pads")):
        refuse(node, "padded MaxUnpool has no kernel here")

    def run(x: Tensor, indices: Tensor, shape: Input = None) -> Tensor:
        inner = [(n - 1) * step + size for n, step, size in zip(x.shape[2:], strides, kernel, strict=True)]
        natural = (*x.shape[:2], *inner)
        flat = x.new_zeros(math.prod(natural)).scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(natural)
        if shape is None:
            return flat
        more = [want - n for want, n in zip(shape.tolist()[2:], inner, strict=True)]
        return functional.pad(flat, split_pads((0,) * len(inner), more))

    return run


ROWS: tuple[Row, ...] = (
    ("MaxPool", (1, 8, 10, 11, 12, 22), _max_pool),
    ("AveragePool", (7, 10, 11, 19, 22), _average_pool),
    ("LpPool", (2, 11, 18, 22), _lp_pool),
    ("GlobalAveragePool", (1, 22), same(_global_average)),
    ("GlobalMaxPool", (1, 22), same(_global_max)),
    ("GlobalLpPool", (2, 22), _global_lp),
    ("MaxUnpool", (9, 11, 22), _max_unpool, (2,)),
)
