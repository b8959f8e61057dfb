"""Col2Im: put overlapping blocks back into the image that they were cut out of, adding up where they overlap."""

import math

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import Kernel, Numbers, Row, integers


def _col2im(node: ir.Node) -> Kernel:
    strides, dilations, pads = (integers(node, name) for name in ("strides", "dilations", "pads"))
    image, block = Numbers(), Numbers()

    def run(x: Tensor, image_shape: Tensor, block_shape: Tensor) -> Tensor:
        sizes, kernel = image.ints(image_shape), block.ints(block_shape)
        count = len(sizes)
        begins, ends = pads[:count] or (0,) * count, pads[count:] or (0,) * count
        padded = [sum(parts) for parts in zip(sizes, begins, ends, strict=True)]
        places = _places(padded, kernel, strides or (1,) * count, dilations or (1,) * count).to(x.device)
        columns = x.reshape(len(x), -1, places.numel())
        made = x.new_zeros(*columns.shape[:2], math.prod(padded)).index_add(2, places.reshape(-1), columns)
        made = made.reshape(*columns.shape[:2], *padded)
        for axis, (begin, size) in enumerate(zip(begins, sizes, strict=True), start=2):
            made = made.narrow(axis, begin, size)
        return made

    return run


def _places(sizes: list[int], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]) -> Tensor:
    """Return the flat index in the image of each element of each block: (elements of a block, blocks)."""
    total = torch.zeros((1,) * (2 * len(sizes)), dtype=torch.int64)
    for axis, (size, length, stride, dilation) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        inner = torch.arange(length) * dilation
        outer = torch.arange(0, size - dilation * (length - 1), stride)
        shape = [1] * (2 * len(sizes))
        shape[axis], shape[len(sizes) + axis] = len(inner), len(outer)
        total = total * size + (inner[:, None] + outer).reshape(shape)
    return total.reshape(math.prod(kernel), -1)


ROWS: tuple[Row, ...] = (("Col2Im", (18,), _col2im, (1, 2)),)
