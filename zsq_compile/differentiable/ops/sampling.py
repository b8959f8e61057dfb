"""Operators that read feature maps between their elements, at places that are computed."""

from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from zsq_compile.differentiable.arguments import Input, Kernel, Row, integer, integers, number, refuse, text


def _deform_conv(node: ir.Node) -> Kernel:
    group, offset_group = integer(node, "group", 1), integer(node, "offset_group", 1)
    steps, spread = integers(node, "strides") or (1, 1), integers(node, "dilations") or (1, 1)
    pads = integers(node, "pads") or (0, 0, 0, 0)
    if len(steps) != 2:
        refuse(node, "it has another number of spatial axes than two")

    def run(x: Tensor, weight: Tensor, offset: Tensor, bias: Input = None, mask: Input = None) -> Tensor:
        batch, _, *sizes = x.shape
        kernel, (height, width) = weight.shape[2:], offset.shape[2:]
        # (batch * offset groups, places of the kernel, y and x, height, width)
        moved = offset.reshape(batch * offset_group, kernel.numel(), 2, height, width)
        places = [
            moved[:, :, axis] + _regular(kernel, axis, (height, width)[axis], steps, spread, pads).to(x)
            for axis in (0, 1)
        ]
        # half a pixel from the border to the first centre; outside are zeros
        scaled = [(2 * place + 1) / size - 1 for place, size in zip(places, sizes, strict=True)]
        grid = torch.stack(scaled[::-1], -1).flatten(1, 2)
        maps = x.reshape(batch * offset_group, -1, *sizes)
        read = functional.grid_sample(maps, grid, "bilinear", "zeros", align_corners=False)
        read = read.reshape(batch, offset_group, -1, kernel.numel(), height, width)
        if mask is not None:
            read = read * mask.reshape(batch, offset_group, 1, kernel.numel(), height, width)
        columns = read.reshape(batch, group, -1, height * width)
        made = weight.reshape(group, len(weight) // group, -1) @ columns
        y = made.reshape(batch, len(weight), height, width)
        return y if bias is None else y + bias[:, None, None]

    return run


def _regular(
    kernel: torch.Size, axis: int, count: int, steps: tuple[int, ...], spread: tuple[int, ...], pads: tuple[int, ...]
) -> Tensor:
    """Where a convolution without offsets reads along an axis: (places of the kernel, height or 1, width or 1)."""
    inner = torch.arange(kernel[axis]) * spread[axis]
    inner = inner[:, None].expand(*kernel) if axis == 0 else inner.expand(*kernel)
    outer = torch.arange(count) * steps[axis] - pads[axis]
    return inner.reshape(-1, 1, 1) + (outer[:, None] if axis == 0 else outer)


def _roi_align(node: ir.Node, *, shifts: bool) -> Kernel:
    mode, ratio, scale = text(node, "mode", "avg"), integer(node, "sampling_ratio"), number(node, "spatial_scale", 1.0)
    pooled = integer(node, "output_height", 1), integer(node, "output_width", 1)
    shift = 0.5 if shifts and text(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel" else 0.0

    def one(x: Tensor, box: Tensor) -> Tensor:
        start, size = (box[:2] * scale - shift).flip(0), (box[2:] - box[:2]).flip(0) * scale
        size = size if shift else size.clamp(min=1.0)
        axes = []
        for axis in (0, 1):
            points = ratio or int(torch.ceil(size[axis] / pooled[axis]))
            if points <= 0:  # the box has no area
                return x.new_zeros(len(x), *pooled)
            turns = (torch.arange(pooled[axis] * points, device=x.device) + 0.5) / points
            axes.append(_neighbours(start[axis] + turns * size[axis] / pooled[axis], x.shape[1 + axis]))
        corners = [x[:, y][:, :, z] * (v[:, None] * w) for y, v in axes[0] for z, w in axes[1]]
        shape = x.shape[0], pooled[0], -1, pooled[1], corners[0].shape[2] // pooled[1]
        if mode == "max":
            return torch.stack(corners).amax(0).reshape(shape).amax((2, 4))
        return torch.stack(corners).sum(0).reshape(shape).mean((2, 4))

    def run(x: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
        made = [one(x[int(image)], box) for image, box in zip(images, boxes, strict=True)]
        return torch.stack(made) if made else x.new_zeros(0, x.shape[1], *pooled)

    return run


def _neighbours(at: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return indices in front of and behind each place, with their weights; a place far outside has none."""
    inside = (at >= -1.0) & (at <= size)
    at = at.clamp(0.0, size - 1.0)
    low = at.floor().to(torch.int64)
    share = at - low
    return [(low, (1 - share) * inside), ((low + 1).clamp(max=size - 1), share * inside)]


ROWS: tuple[Row, ...] = (
    ("DeformConv", (19, 22), _deform_conv),
    ("RoiAlign", (10,), partial(_roi_align, shifts=False)),
    ("RoiAlign", (16, 22), partial(_roi_align, shifts=True)),
)
