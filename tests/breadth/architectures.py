"""Networks of the kinds that people have, small: 32 x 32 pictures, widths of 8 to 48, written for these tests.

All take (N, 3, 32, 32) pictures with mean and deviation taken out; what they hand on is told by each.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 32
_CLASSES = 10


def conv(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None
) -> nn.Module:
    """Convolution, normalisation, activation."""
    layers = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([] if act is None else [act]))


class Classifier(nn.Module):
    """A trunk of (N, width, H, W), its mean over places, and a layer of ten scores."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(width, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).mean((2, 3)))


class Residual(nn.Module):
    """Two convolutions beside a way round them, with a convolution of its own where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(inputs, outputs, 3, stride, act=nn.ReLU()), conv(outputs, outputs, 3))
        self.way = conv(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.way(x))


class ResNet(nn.Module):
    """He et al. 2016, with the max pooling of its start, and pooling and Flatten in front of the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            conv(3, 8, 7, 2, act=nn.ReLU()),
            nn.MaxPool2d(3, 2, 1),
            Residual(8, 8, 1),
            Residual(8, 16, 2),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(16, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.trunk(x), 1))


class Gate(nn.Module):
    """Squeeze and excite: each channel by a factor that all channels decide."""

    def __init__(self, width: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        hidden = max(width // 4, 4)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, hidden, 1), act, nn.Conv2d(hidden, width, 1), gate
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x)


class Inverted(nn.Module):
    """Widen, filter each channel, gate if asked, narrow; added to the input where the sizes are those of the input."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, act: Callable[[], nn.Module], gate: nn.Module | None = None
    ) -> None:
        super().__init__()
        wide = 3 * inputs
        layers = [conv(inputs, wide, 1, act=act()), conv(wide, wide, 3, stride, groups=wide, act=act())]
        layers += [] if gate is None else [Gate(wide, nn.ReLU() if isinstance(gate, nn.Hardsigmoid) else act(), gate)]
        self.body = nn.Sequential(*layers, conv(wide, outputs, 1))
        self.added = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.added else self.body(x)


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018: linear bottlenecks, ReLU6."""
    blocks = [Inverted(8, 8, 1, nn.ReLU6), Inverted(8, 16, 2, nn.ReLU6), Inverted(16, 16, 1, nn.ReLU6)]
    return Classifier(nn.Sequential(conv(3, 8, 3, 2, act=nn.ReLU6()), *blocks, conv(16, 32, 1, act=nn.ReLU6())), 32)


def mobilenet_v3() -> nn.Module:
    """Howard et al. 2019: HardSwish, gates of HardSigmoid."""
    blocks = [
        Inverted(8, 8, 1, nn.ReLU, nn.Hardsigmoid()),
        Inverted(8, 16, 2, nn.Hardswish),
        Inverted(16, 16, 1, nn.Hardswish, nn.Hardsigmoid()),
    ]
    start, end = conv(3, 8, 3, 2, act=nn.Hardswish()), conv(16, 32, 1, act=nn.Hardswish())
    return Classifier(nn.Sequential(start, *blocks, end), 32)


def efficientnet() -> nn.Module:
    """Tan and Le 2019: SiLU, gates of Sigmoid."""
    blocks = [Inverted(8, 8, 1, nn.SiLU, nn.Sigmoid()), Inverted(8, 16, 2, nn.SiLU, nn.Sigmoid())]
    return Classifier(nn.Sequential(conv(3, 8, 3, 2, act=nn.SiLU()), *blocks, conv(16, 32, 1, act=nn.SiLU())), 32)


class Shuffle(nn.Module):
    """Half of the channels through convolutions, the halves mixed by turns (ShuffleNetV2, Ma et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            conv(half, half, 1, act=nn.ReLU()), conv(half, half, 3, groups=half), conv(half, half, 1, act=nn.ReLU())
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        both = torch.cat([kept, self.body(changed)], 1)
        count, width, height, across = both.shape
        mixed = both.view(count, 2, width // 2, height, across).transpose(1, 2)
        return mixed.reshape(count, width, height, across)


def shufflenet() -> nn.Module:
    """Ma et al. 2018."""
    trunk = [conv(3, 16, 3, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1), Shuffle(16), Shuffle(16)]
    return Classifier(nn.Sequential(*trunk, conv(16, 32, 1, act=nn.ReLU())), 32)


class Ghost(nn.Module):
    """Half of the channels by a convolution, the other half by a cheap one of these (Han et al. 2020)."""

    def __init__(self, inputs: int, outputs: int, act: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.primary = conv(inputs, half, 1, act=nn.ReLU() if act else None)
        self.cheap = conv(half, half, 3, groups=half, act=nn.ReLU() if act else None)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], 1)


class GhostBlock(nn.Module):
    """Two ghost modules, with a gate between them, beside a way round."""

    def __init__(self, width: int) -> None:
        super().__init__()
        gate = Gate(2 * width, nn.ReLU(), nn.Hardsigmoid())
        self.body = nn.Sequential(Ghost(width, 2 * width, True), gate, Ghost(2 * width, width, False))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def ghostnet() -> nn.Module:
    """Han et al. 2020."""
    trunk = [conv(3, 16, 3, 2, act=nn.ReLU()), GhostBlock(16), conv(16, 16, 3, 2, groups=16), GhostBlock(16)]
    return Classifier(nn.Sequential(*trunk, conv(16, 32, 1, act=nn.ReLU())), 32)


class Rep(nn.Module):
    """Three branches of one block as they are trained: 3 x 3, 1 x 1, and a normalised way round (Ding et al. 2021)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.three, self.one = conv(inputs, outputs, 3, stride), conv(inputs, outputs, 1, stride)
        self.way = nn.BatchNorm2d(inputs) if stride == 1 and inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        total = self.three(x) + self.one(x)
        return functional.relu(total if self.way is None else total + self.way(x))


def repvgg() -> nn.Module:
    """Ding et al. 2021, with the branches of training."""
    return Classifier(nn.Sequential(Rep(3, 8, 2), Rep(8, 8, 1), Rep(8, 16, 2), Rep(16, 16, 1)), 16)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, then a perceptron with channels last (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.scale * self.body(self.mix(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Liu et al. 2022; its last normalisation stands behind the mean over places."""

    def __init__(self) -> None:
        super().__init__()
        start = [nn.Conv2d(3, 16, 4, 4), ChannelNorm(16), ConvNeXtBlock(16)]
        self.trunk = nn.Sequential(*start, ChannelNorm(16), nn.Conv2d(16, 24, 2, 2), ConvNeXtBlock(24))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.trunk(x).mean((-2, -1))))


class Attention(nn.Module):
    """Attention of all heads from one matrix of queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        each = width // self.heads
        query, key, value = self.qkv(x).reshape(count, tokens, 3, self.heads, each).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1) * each**-0.5).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(count, tokens, width))


class ViTBlock(nn.Module):
    """Attention and a perceptron, each behind a normalisation and beside a way round."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, 4)
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.body(x)


class ViT(nn.Module):
    """Dosovitskiy et al. 2021, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        width = 32
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(0.5 * torch.randn(1, 1, width))
        self.places = nn.Parameter(0.2 * torch.randn(1, (SIDE // 8) ** 2 + 1, width))
        self.blocks = nn.Sequential(ViTBlock(width), ViTBlock(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.places
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class UNet(nn.Module):
    """Ronneberger et al. 2015: (N, 4, 32, 32) scores of every pixel."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.down = nn.ModuleList([conv(3, 8, 3, act=act), conv(8, 16, 3, act=act), conv(16, 24, 3, act=act)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(24, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
        self.join = nn.ModuleList([conv(32, 16, 3, act=act), conv(16, 8, 3, act=act)])
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](functional.max_pool2d(first, 2))
        x = self.down[2](functional.max_pool2d(second, 2))
        for up, join, beside in zip(self.up, self.join, (second, first), strict=True):
            x = join(torch.cat([up(x), beside], 1))
        return self.head(x)


class SSD(nn.Module):
    """Liu et al. 2016: (N, 240, 4) offsets of boxes and (N, 240, 5) probabilities, of places of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.trunk = nn.Sequential(conv(3, 8, 3, 2, act=act), conv(8, 16, 3, 2, act=act))
        self.next = conv(16, 24, 3, 2, act=act)
        self.boxes = nn.ModuleList([nn.Conv2d(width, 3 * 4, 3, padding=1) for width in (16, 24)])
        self.classes = nn.ModuleList([nn.Conv2d(width, 3 * 5, 3, padding=1) for width in (16, 24)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.trunk(x)
        maps = first, self.next(first)
        boxes = [_rows(head(value), 4) for head, value in zip(self.boxes, maps, strict=True)]
        classes = [_rows(head(value), 5) for head, value in zip(self.classes, maps, strict=True)]
        return torch.cat(boxes, 1), torch.cat(classes, 1).softmax(-1)


def _rows(value: Tensor, each: int) -> Tensor:
    """(N, anchors * each, H, W) -> (N, H * W * anchors, each)."""
    return value.permute(0, 2, 3, 1).reshape(value.shape[0], -1, each)


class Bottlenecks(nn.Module):
    """Two halves, one of them handed through further convolutions, all joined (the C2f of YOLOv8)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.start, self.end = conv(width, width, 1, act=nn.SiLU()), conv(half * 3, width, 1, act=nn.SiLU())
        self.body = nn.Sequential(conv(half, half, 3, act=nn.SiLU()), conv(half, half, 3, act=nn.SiLU()))

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = self.start(x).chunk(2, 1)
        return self.end(torch.cat([kept, changed, changed + self.body(changed)], 1))


class YOLO(nn.Module):
    """The head of YOLOv8: (N, 4 + 5, 80) boxes by the mean of 8 bins a side, decoded at fixed places, and scores."""

    def __init__(self) -> None:
        super().__init__()
        act, bins = nn.SiLU(), 8
        self.trunk = nn.Sequential(conv(3, 8, 3, 2, act=act), conv(8, 16, 3, 2, act=act), Bottlenecks(16))
        self.next = conv(16, 16, 3, 2, act=act)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.pooled = conv(48, 16, 1, act=act)
        self.join = conv(32, 16, 1, act=act)
        self.boxes = nn.ModuleList([nn.Sequential(conv(16, 16, 3, act=act), nn.Conv2d(16, 4 * bins, 1)) for _ in "ab"])
        self.scores = nn.ModuleList([nn.Sequential(conv(16, 16, 3, act=act), nn.Conv2d(16, 5, 1)) for _ in "ab"])
        self.mean = nn.Conv2d(bins, 1, 1, bias=False)
        self.mean.weight.data[:] = torch.arange(bins, dtype=torch.float32).view(1, bins, 1, 1)
        places = [_places(SIDE // stride) for stride in (4, 8)]
        self.register_buffer("places", torch.cat(places, 1))
        self.register_buffer(
            "strides", torch.cat([torch.full((1, p.shape[1]), s) for p, s in zip(places, (4.0, 8.0), strict=True)], 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.trunk(x)
        second = self.next(first)
        once = self.pool(second)
        second = self.pooled(torch.cat([second, once, self.pool(once)], 1))
        first = self.join(torch.cat([first, functional.interpolate(second, scale_factor=2.0)], 1))
        maps = [
            torch.cat([boxes(value), scores(value)], 1).flatten(2)
            for boxes, scores, value in zip(self.boxes, self.scores, (first, second), strict=True)
        ]
        boxes, scores = torch.cat(maps, 2).split((32, 5), 1)
        sides = self.mean(boxes.view(x.shape[0], 4, 8, -1).transpose(1, 2).softmax(1)).view(x.shape[0], 4, -1)
        low, high = sides.chunk(2, 1)
        low, high = self.places - low, self.places + high
        decoded = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        return torch.cat([decoded, scores.sigmoid()], 1)


def _places(side: int) -> Tensor:
    at = torch.arange(side) + 0.5
    rows, columns = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()])


class CRNN(nn.Module):
    """Shi et al. 2017: (N, 8, 12) scores of letters along the width, by a recurrent layer both ways."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        layers = [conv(3, 8, 3, act=act), nn.MaxPool2d(2), conv(8, 16, 3, act=act), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*layers, conv(16, 16, 3, act=act), nn.MaxPool2d((SIDE // 4, 1)))
        self.lstm = nn.LSTM(16, 16, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.trunk(x).squeeze(2).transpose(1, 2))[0])


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "resnet": ResNet,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "efficientnet": efficientnet,
    "shufflenet": shufflenet,
    "ghostnet": ghostnet,
    "repvgg": repvgg,
    "convnext": ConvNeXt,
    "vit": ViT,
    "unet": UNet,
    "ssd": SSD,
    "yolo": YOLO,
    "crnn": CRNN,
}
