"""Small detectors of the kinds that are in use: what ``train_detectors.py`` trains.

``forward`` gives what the losses want, ``answer`` what the exported file gives, which is what the toolkits of these
networks write, and ``read_boxes`` what a user's code makes of that.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from small_networks import RELU, Activation, Residual, conv_bn
from torch import Tensor, nn
from torch.nn import functional

SILU: Activation = partial(nn.SiLU, inplace=False)
BINS = 16  # of the distance from a place to a side of its box, as in YOLOv8
STRIDES = (8, 16, 32)
ANCHORS = ((16, 16, 30, 24, 24, 32), (40, 40, 60, 44, 46, 62), (80, 80, 110, 90, 96, 120))  # w, h, of each stride
PRIORS = ((16, 24), (36, 54), (76, 110))  # sides of the squares, of each stride
VARIANCES = (0.1, 0.2)  # of SSD's offsets and logarithms

Block = Callable[[int, int, bool], nn.Module]
Outputs = Mapping[str, NDArray[Any]]


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, added to what came in where that is asked for."""

    def __init__(self, channels: int, *, adds: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(channels, channels, SILU), conv_bn(channels, channels, SILU))
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return x + self.body(x) if self.adds else self.body(x)


class SplitBlock(nn.Module):
    """C2f of YOLOv8: halves, one of which goes through a bottleneck, all concatenated."""

    def __init__(self, inputs: int, outputs: int, adds: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.enter, self.inner = conv_bn(inputs, outputs, SILU, size=1), Bottleneck(half, adds=adds)
        self.leave = conv_bn(3 * half, outputs, SILU, size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        left, right = self.enter(x).chunk(2, 1)
        return self.leave(torch.cat([left, right, self.inner(right)], 1))


class PartialBlock(nn.Module):
    """C3 of YOLOv5: two branches of half the channels, one of them through a bottleneck."""

    def __init__(self, inputs: int, outputs: int, adds: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.deep = nn.Sequential(conv_bn(inputs, half, SILU, size=1), Bottleneck(half, adds=adds))
        self.flat, self.leave = conv_bn(inputs, half, SILU, size=1), conv_bn(2 * half, outputs, SILU, size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        return self.leave(torch.cat([self.deep(x), self.flat(x)], 1))


class PooledPyramid(nn.Module):
    """SPPF: largest values of growing neighbourhoods, side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = conv_bn(channels, channels // 2, SILU, size=1)
        self.pool, self.leave = nn.MaxPool2d(5, 1, 2), conv_bn(2 * channels, channels, SILU, size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class PathNetwork(nn.Module):
    """Trunk and path aggregation neck (Liu et al. 2018) of YOLOv5 and YOLOv8: features at three strides."""

    def __init__(self, block: Block, widths: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth, fifth = widths
        self.stem = nn.Sequential(conv_bn(3, first, SILU, stride=2), conv_bn(first, second, SILU, stride=2))
        self.eighth = nn.Sequential(block(second, second, True), conv_bn(second, third, SILU, stride=2))
        self.keep = block(third, third, True)
        self.sixteenth = nn.Sequential(conv_bn(third, fourth, SILU, stride=2), block(fourth, fourth, True))
        last = [conv_bn(fourth, fifth, SILU, stride=2), block(fifth, fifth, True), PooledPyramid(fifth)]
        self.last = nn.Sequential(*last)
        self.up_fourth, self.up_third = block(fourth + fifth, fourth, False), block(third + fourth, third, False)
        self.down_third, self.down_fourth = (conv_bn(wide, wide, SILU, stride=2) for wide in (third, fourth))
        self.out_fourth, self.out_fifth = block(third + fourth, fourth, False), block(fourth + fifth, fifth, False)
        self.grow = nn.Upsample(scale_factor=2.0, mode="nearest")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> features at strides 8, 16, 32."""
        third = self.keep(self.eighth(self.stem(x)))
        fourth = self.sixteenth(third)
        fifth = self.last(fourth)
        middle = self.up_fourth(torch.cat([self.grow(fifth), fourth], 1))
        fine = self.up_third(torch.cat([self.grow(middle), third], 1))
        middle = self.out_fourth(torch.cat([self.down_third(fine), middle], 1))
        return [fine, middle, self.out_fifth(torch.cat([self.down_fourth(middle), fifth], 1))]


class Detector(nn.Module, ABC):
    """A network, what its file gives, and how that is read."""

    output_names: tuple[str, ...]

    @abstractmethod
    def answer(self, x: Tensor) -> tuple[Tensor, ...]:
        """Give what the file gives for (N, 3, H, W), in the order of ``output_names``."""

    @staticmethod
    @abstractmethod
    def read_boxes(outputs: Outputs, side: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Read corners (N, places, 4) in pixels and scores (N, places, classes) of pictures of ``side`` pixels."""


class DistanceDetector(Detector):
    """Like YOLOv8: no anchors, heads apart, distances as means of 16 bins; decoded, as Ultralytics exports it."""

    output_names = ("output0",)

    def __init__(self, classes: int, widths: Sequence[int] = (16, 24, 48, 64, 96), inner: int = 32) -> None:
        super().__init__()
        self.trunk, self.classes = PathNetwork(SplitBlock, widths), classes
        self.boxes, self.scores = (
            nn.ModuleList(
                nn.Sequential(conv_bn(wide, inner, SILU), conv_bn(inner, inner, SILU), nn.Conv2d(inner, channels, 1))
                for wide in widths[2:]
            )
            for channels in (4 * BINS, classes)
        )
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).reshape(1, BINS, 1, 1))
        for boxes, scores, stride in zip(self.boxes, self.scores, STRIDES, strict=True):
            nn.init.constant_(boxes[-1].bias, 1.0)
            nn.init.constant_(scores[-1].bias, math.log(5 / classes / (160 / stride) ** 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows of bins (N, 64, A), class logits (N, C, A), centres (2, A) in cells, strides (A,)."""
        features = self.trunk(x)
        pairs = zip(self.boxes, self.scores, features, strict=True)
        rows = [torch.cat([boxes(one), scores(one)], 1).flatten(2) for boxes, scores, one in pairs]
        bins, logits = torch.cat(rows, 2).split((4 * BINS, self.classes), 1)
        centres = torch.cat([_cells(*one.shape[2:]) + 0.5 for one in features], 1)
        counts = torch.tensor([one.shape[2] * one.shape[3] for one in features])
        return bins, logits, centres, torch.tensor(STRIDES, dtype=torch.float32).repeat_interleave(counts)

    def distances(self, bins: Tensor) -> Tensor:
        """(N, 64, A) -> (N, 4, A) cells: left, top, right, bottom, with the transpose that the files have."""
        count, _, places = bins.shape
        shares = bins.reshape(count, 4, BINS, places).transpose(2, 1).softmax(1)
        return functional.conv2d(shares, self.bins).reshape(count, 4, places)

    def answer(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 4 + classes, A): cx, cy, w, h in pixels, probabilities."""
        bins, logits, centres, strides = self(x)
        near, far = self.distances(bins).chunk(2, 1)
        low, high = centres - near, centres + far
        boxes = torch.cat([(low + high) / 2, high - low], 1) * strides
        return (torch.cat([boxes, logits.sigmoid()], 1),)

    @staticmethod
    def read_boxes(outputs: Outputs, side: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """See Detector."""
        rows = outputs["output0"].transpose(0, 2, 1)
        return _corners(rows[..., :4]), rows[..., 4:]


class AnchorDetector(Detector):
    """Like YOLOv5: three anchors at each place, sigmoid decode in the file."""

    output_names = ("output0",)

    def __init__(self, classes: int, widths: Sequence[int] = (16, 24, 48, 64, 96)) -> None:
        super().__init__()
        self.trunk, self.columns = PathNetwork(PartialBlock, widths), 5 + classes
        self.heads = nn.ModuleList(nn.Conv2d(wide, 3 * self.columns, 1) for wide in widths[2:])
        for head, stride in zip(self.heads, STRIDES, strict=True):
            with torch.no_grad():
                bias = head.bias.view(3, -1)
                bias[:, 4] += math.log(8 / (160 / stride) ** 2)
                bias[:, 5:] += math.log(0.6 / (classes - 0.99))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W, 5 + classes) raw numbers of each stride."""
        maps = [head(one) for head, one in zip(self.heads, self.trunk(x), strict=True)]
        return [one.view(one.shape[0], 3, self.columns, *one.shape[2:]).permute(0, 1, 3, 4, 2) for one in maps]

    def answer(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, A, 5 + classes): cx, cy, w, h in pixels, probabilities of a thing and of the classes."""
        rows = []
        for raw, stride, anchors in zip(self(x), STRIDES, ANCHORS, strict=True):
            height, width = raw.shape[2:4]
            place, size, scores = raw.sigmoid().split((2, 2, self.columns - 4), 4)
            grid = _cells(height, width).T.reshape(1, 1, height, width, 2) - 0.5
            sides = torch.tensor(anchors, dtype=torch.float32).reshape(1, 3, 1, 1, 2)
            parts = [(place * 2 + grid) * stride, (size * 2) ** 2 * sides, scores]
            rows.append(torch.cat(parts, 4).reshape(raw.shape[0], 3 * height * width, self.columns))
        return (torch.cat(rows, 1),)

    @staticmethod
    def read_boxes(outputs: Outputs, side: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """See Detector."""
        rows = outputs["output0"]
        return _corners(rows[..., :4]), rows[..., 4:5] * rows[..., 5:]


class PriorDetector(Detector):
    """Like RetinaFace and SSD: depthwise trunk, feature pyramid, offsets from priors and a softmax with background."""

    output_names = ("loc", "conf")

    def __init__(self, classes: int, widths: Sequence[int] = (16, 32, 64, 96, 128), inner: int = 48) -> None:
        super().__init__()
        self.columns, stages = 1 + classes, []
        wide = widths[0]
        for number, outputs in enumerate(widths[1:]):
            layers = [_separable(wide, outputs, stride=2), _separable(outputs, outputs)]
            stages.append(nn.Sequential(*([conv_bn(3, wide, stride=2)] if number == 0 else []), *layers))
            wide = outputs
        self.stages = nn.ModuleList(stages)
        self.sides = nn.ModuleList(conv_bn(one, inner, size=1) for one in widths[2:])
        self.mixed = nn.ModuleList(nn.Sequential(_separable(inner, inner), _separable(inner, inner)) for _ in STRIDES)
        self.locations = nn.ModuleList(nn.Conv2d(inner, 2 * 4, 3, padding=1) for _ in STRIDES)
        self.scores = nn.ModuleList(nn.Conv2d(inner, 2 * self.columns, 3, padding=1) for _ in STRIDES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (N, P, 4) and logits (N, P, 1 + classes), background first; places by rows, columns, priors."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        maps = [side(one) for side, one in zip(self.sides, features[1:], strict=True)]
        for finer in (1, 0):
            maps[finer] = maps[finer] + functional.interpolate(maps[finer + 1], scale_factor=2.0, mode="nearest")
        maps = [mix(one) for mix, one in zip(self.mixed, maps, strict=True)]
        rows = []
        for heads, columns in (self.locations, 4), (self.scores, self.columns):
            made = [head(one).permute(0, 2, 3, 1) for head, one in zip(heads, maps, strict=True)]
            rows.append(torch.cat([one.reshape(one.shape[0], -1, columns) for one in made], 1))
        return rows[0], rows[1]

    def answer(self, x: Tensor) -> tuple[Tensor, ...]:
        """Offsets (N, P, 4) from the priors, probabilities (N, P, 1 + classes)."""
        offsets, logits = self(x)
        return offsets, logits.softmax(-1)

    @staticmethod
    def read_boxes(outputs: Outputs, side: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """See Detector."""
        priors, offsets = priors_of(side).numpy(), outputs["loc"]
        centre = priors[:, :2] + VARIANCES[0] * offsets[..., :2] * priors[:, 2:]
        size = priors[:, 2:] * np.exp(VARIANCES[1] * offsets[..., 2:])
        return _corners(np.concatenate([centre, size], -1)), outputs["conf"][..., 1:]


class CentreDetector(Detector):
    """Like CenterNet and CenterFace: a map of centres at stride 4 with maps of sizes and offsets."""

    output_names = ("heat", "size", "offset")

    def __init__(self, classes: int, widths: Sequence[int] = (16, 32, 64, 128), inner: int = 48) -> None:
        super().__init__()
        wide, stages = widths[0], []
        for number, outputs in enumerate(widths[1:]):
            first = [conv_bn(3, wide, stride=2)] if number == 0 else []
            stages.append(nn.Sequential(*first, Residual(wide, outputs, 2)))
            wide = outputs
        self.stages = nn.ModuleList(stages)
        self.sides = nn.ModuleList(conv_bn(one, inner, size=1) for one in widths[1:])
        self.heads = nn.ModuleList(
            nn.Sequential(conv_bn(inner, inner), nn.Conv2d(inner, channels, 1)) for channels in (classes, 2, 2)
        )
        nn.init.constant_(self.heads[0][-1].bias, -3.0)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits (N, C, H/4, W/4), logarithms of width and height in cells (N, 2, ...), offsets x and y in cells."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        maps = [side(one) for side, one in zip(self.sides, features, strict=True)]
        for finer in range(len(maps) - 2, -1, -1):
            maps[finer] = maps[finer] + functional.interpolate(maps[finer + 1], scale_factor=2.0, mode="nearest")
        return [head(maps[0]) for head in self.heads]

    def answer(self, x: Tensor) -> tuple[Tensor, ...]:
        """As ``forward``, with probabilities."""
        heat, size, offset = self(x)
        return heat.sigmoid(), size, offset

    @staticmethod
    def read_boxes(outputs: Outputs, side: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """See Detector: only peaks of the map have a score."""
        heat, size, offset = (outputs[name] for name in ("heat", "size", "offset"))
        peaks = functional.max_pool2d(torch.from_numpy(heat), 3, 1, 1).numpy() == heat
        cells = _cells(*heat.shape[2:]).numpy().reshape(1, 2, *heat.shape[2:])
        rows = np.concatenate([4 * (cells + offset), 4 * np.exp(size)], 1)
        flat = [one.reshape(*one.shape[:2], -1).transpose(0, 2, 1) for one in (rows, heat * peaks)]
        return _corners(flat[0]), flat[1]


def priors_of(side: int) -> Tensor:
    """Centres and sides of the priors of a picture, (P, 4) in pixels, in the order of ``PriorDetector``."""
    rows = []
    for stride, sides in zip(STRIDES, PRIORS, strict=True):
        cells = ((_cells(side // stride, side // stride) + 0.5) * stride).T[:, None].expand(-1, len(sides), -1)
        sizes = torch.tensor(sides, dtype=torch.float32).reshape(1, -1, 1).expand(len(cells), -1, 2)
        rows.append(torch.cat([cells, sizes], 2).reshape(-1, 4))
    return torch.cat(rows)


def _separable(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        conv_bn(inputs, inputs, RELU, stride=stride, groups=inputs), conv_bn(inputs, outputs, RELU, size=1)
    )


def _cells(height: int, width: int) -> Tensor:
    """Columns and rows of a grid's places: (2, height * width)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows]).reshape(2, -1).float()


def _corners(boxes: NDArray[Any]) -> NDArray[Any]:
    """(..., 4) cx, cy, w, h -> x1, y1, x2, y2."""
    low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    return np.concatenate([low, high], -1)
