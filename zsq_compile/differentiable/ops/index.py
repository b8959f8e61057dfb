"""Operators that pick or place values by index."""

from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from zsq_compile.differentiable.arguments import Input, Kernel, Numbers, Row, integer, same, text
from zsq_compile.differentiable.ops.recurrent import reverse_sequence


def _wrap(indices: Tensor, length: int) -> Tensor:
    """Make negative indices count from the end, and int64."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + length, indices)


def _gather(node: ir.Node) -> Kernel:
    axis = integer(node, "axis")

    def run(x: Tensor, indices: Tensor) -> Tensor:
        along = axis % x.dim()
        flat = _wrap(indices, x.shape[along]).reshape(-1)
        picked = x.index_select(along, flat)
        if indices.dim() == 1:
            return picked
        return picked.reshape((*x.shape[:along], *indices.shape, *x.shape[along + 1 :]))

    return run


def _gather_elements(node: ir.Node) -> Kernel:
    axis = integer(node, "axis")
    return lambda x, indices: torch.gather(x, axis, _wrap(indices, x.shape[axis]))


def _gather_nd(node: ir.Node) -> Kernel:
    batch = integer(node, "batch_dims")

    def run(x: Tensor, indices: Tensor) -> Tensor:
        depth = indices.shape[-1]
        ranges = [torch.arange(n, device=x.device) for n in indices.shape[:batch]]
        grids = torch.meshgrid(ranges, indexing="ij") if batch else ()
        leading = [grid.reshape(*grid.shape, *(1,) * (indices.dim() - 1 - batch)) for grid in grids]
        coordinates = [_wrap(indices[..., k], x.shape[batch + k]) for k in range(depth)]
        return x[tuple([*leading, *coordinates])]

    return run


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(node: ir.Node) -> Kernel:
    axis, reduction = integer(node, "axis"), text(node, "reduction", "none")

    def run(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _wrap(indices, x.shape[axis])
        if reduction == "none":
            return x.scatter(axis, places, updates)
        return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])

    return run


def _scatter_nd(node: ir.Node) -> Kernel:
    reduction = text(node, "reduction", "none")

    def run(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        depth = indices.shape[-1]
        rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
        for k in range(depth):
            rows = rows * x.shape[k] + _wrap(indices[..., k], x.shape[k])
        flat = x.reshape(-1, *x.shape[depth:]) if depth else x
        source = updates.reshape(-1, *x.shape[depth:])
        rows = rows.reshape(-1)
        if reduction == "none":
            return flat.index_put((rows,), source).reshape(x.shape)
        rows = rows.reshape(-1, *(1,) * (source.dim() - 1)).expand_as(source)
        return flat.scatter_reduce(0, rows, source, _REDUCTIONS[reduction]).reshape(x.shape)

    return run


def _one_hot(node: ir.Node) -> Kernel:
    axis = integer(node, "axis", -1)
    numbers = Numbers()

    def run(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = numbers.ints(depth)[0]
        hot = torch.arange(count, device=indices.device) == (indices.unsqueeze(-1) % count)
        inside = (indices >= -count) & (indices < count)
        return torch.where(hot & inside.unsqueeze(-1), values[1], values[0]).movedim(-1, axis)

    return run


def _non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).t()


def _arg(node: ir.Node, *, largest: bool) -> Kernel:
    axis, keep = integer(node, "axis"), bool(integer(node, "keepdims", 1))
    last = bool(integer(node, "select_last_index"))

    def run(x: Tensor) -> Tensor:
        source = x.flip(axis) if last else x
        index = (source.argmax if largest else source.argmin)(axis, keepdim=keep)
        return x.shape[axis] - 1 - index if last else index

    return run


def _top_k(node: ir.Node) -> Kernel:
    axis, largest = integer(node, "axis", -1), bool(integer(node, "largest", 1))
    numbers = Numbers((integer(node, "k"),))

    def run(x: Tensor, k: Input = None) -> tuple[Tensor, Tensor]:
        # a stable sort, because ONNX gives the smaller index first among equals and topk promises no order
        values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
        count = numbers.ints(k)[0]
        return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)

    return run


def _cumulative(node: ir.Node, *, product: bool) -> Kernel:
    exclusive, reverse = integer(node, "exclusive"), integer(node, "reverse")
    numbers = Numbers()

    def run(x: Tensor, axis: Tensor) -> Tensor:
        along = numbers.ints(axis)[0] % x.dim()
        y = x.flip(along) if reverse else x
        if exclusive:
            border = [0, 0] * (x.dim() - 1 - along) + [1, -1]
            y = functional.pad(y, border, value=1 if product else 0)
        y = torch.cumprod(y, along, dtype=x.dtype) if product else torch.cumsum(y, along, dtype=x.dtype)
        return y.flip(along) if reverse else y

    return run


def _compress(node: ir.Node) -> Kernel:
    axis = integer(node, "axis") if "axis" in node.attributes else None

    def run(x: Tensor, condition: Tensor) -> Tensor:
        along = 0 if axis is None else axis
        return (x.reshape(-1) if axis is None else x).index_select(along, torch.nonzero(condition).reshape(-1))

    return run


def _unique(node: ir.Node) -> Kernel:
    axis = integer(node, "axis") if "axis" in node.attributes else None
    ascending = bool(integer(node, "sorted", 1))

    def run(x: Tensor) -> tuple[Tensor, ...]:
        values, places, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
        places = places.reshape(-1)
        first = torch.full_like(counts, len(places)).scatter_reduce(
            0, places, torch.arange(len(places), device=x.device), "amin"
        )
        if ascending:
            return values, first, places, counts
        order = first.argsort()
        return values.index_select(axis or 0, order), first[order], order.argsort()[places], counts[order]

    return run


def _tensor_scatter(node: ir.Node) -> Kernel:
    axis, circular = integer(node, "axis", -2), text(node, "mode", "linear") == "circular"

    def run(past: Tensor, update: Tensor, starts: Input = None) -> Tensor:
        along, length = axis % past.dim(), past.shape[axis]
        first = torch.zeros(len(past), dtype=torch.int64, device=past.device) if starts is None else starts
        places = first[:, None] + torch.arange(update.shape[axis], device=past.device)
        places = places % length if circular else places
        shape = [len(past) if place == 0 else -1 if place == along else 1 for place in range(past.dim())]
        return past.scatter(along, places.reshape(shape).expand_as(update), update)

    return run


def _reverse_sequence(node: ir.Node) -> Kernel:
    time_first = integer(node, "time_axis") == 0

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        if time_first:
            return reverse_sequence(x, lengths)
        return reverse_sequence(x.transpose(0, 1), lengths).transpose(0, 1)

    return run


ROWS: tuple[Row, ...] = (
    ("Gather", (1, 11, 13), _gather),
    ("GatherElements", (11, 13), _gather_elements),
    ("GatherND", (11, 12, 13), _gather_nd),
    ("Scatter", (9, 11), _scatter_elements),
    ("ScatterElements", (11, 13, 16, 18), _scatter_elements),
    ("ScatterND", (11, 13, 16, 18), _scatter_nd),
    ("OneHot", (9, 11, 28), _one_hot, (1,)),
    ("NonZero", (9, 13), same(_non_zero)),
    ("ArgMax", (1, 11, 12, 13), partial(_arg, largest=True)),
    ("ArgMin", (1, 11, 12, 13), partial(_arg, largest=False)),
    ("TopK", (1, 10, 11, 24), _top_k, (1,)),
    ("CumSum", (11, 14), partial(_cumulative, product=False), (1,)),
    ("CumProd", (26,), partial(_cumulative, product=True), (1,)),
    ("ReverseSequence", (10, 28), _reverse_sequence),
    ("Unique", (11, 28), _unique),
    ("TensorScatter", (24,), _tensor_scatter),
    ("Compress", (9, 11, 28), _compress),
)
