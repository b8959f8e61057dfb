"""Small classifiers of many architectures, for pictures of 8 to 48 pixels. They are trained in a minute each."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[], nn.Module]

RELU: Activation = partial(nn.ReLU, inplace=False)
LEAKY: Activation = partial(nn.LeakyReLU, 0.1)


def conv_bn(
    inputs: int, outputs: int, activation: Activation | None = RELU, *, size: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch normalisation, activation."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([] if activation is None else [activation()]))


class Residual(nn.Module):
    """Basic block of a ResNet; the shortcut is a 1x1 convolution where size or channels change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(inputs, outputs, stride=stride), conv_bn(outputs, outputs, None))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, None, size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, outputs, H / stride, W / stride)."""
        return functional.relu(self.body(x) + self.shortcut(x))


class SqueezeExcite(nn.Module):
    """Gate of every channel by the means of all (Hu et al. 2018), with HardSigmoid as in MobileNetV3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 4, 4)
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        gate = self.up(functional.relu(self.down(functional.adaptive_avg_pool2d(x, 1))))
        return x * functional.hardsigmoid(gate)


class Inverted(nn.Module):
    """Inverted bottleneck of MobileNetV3: widen, depthwise, squeeze and excite, narrow."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 3 * inputs
        self.body = nn.Sequential(
            conv_bn(inputs, wide, nn.Hardswish, size=1),
            conv_bn(wide, wide, nn.Hardswish, stride=stride, groups=wide),
            SqueezeExcite(wide),
            conv_bn(wide, outputs, None, size=1),
        )
        self.is_same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return x + self.body(x) if self.is_same else self.body(x)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (N, C, H, W)."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NextBlock(nn.Module):
    """Block of a ConvNeXt (Liu et al. 2022): depthwise, LayerNorm, two pointwise layers with GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = ChannelNorm(channels)
        self.wide, self.narrow = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(3 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return x + self.narrow(functional.gelu(self.wide(self.norm(self.depthwise(x)))))


class MixedPools(nn.Module):
    """Halves with the largest and the mean value side by side, as Inception does; SiLU in between."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.left = conv_bn(inputs, outputs // 2, nn.SiLU)
        self.right = nn.Sequential(conv_bn(inputs, outputs // 2, nn.SiLU, size=1), conv_bn(outputs // 2, outputs // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / 2, W / 2)."""
        largest = functional.max_pool2d(self.left(x), 2)
        return torch.cat([largest, functional.avg_pool2d(self.right(x), 2)], 1)


def _headed(layers: Sequence[nn.Module], channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def plain(channels: int, classes: int) -> nn.Module:
    """Like VGG: 3x3 convolutions with batch normalisation, maxima in between."""
    layers = [conv_bn(channels, 16), nn.MaxPool2d(2), conv_bn(16, 32), conv_bn(32, 32), nn.MaxPool2d(2)]
    return _headed([*layers, conv_bn(32, 64), conv_bn(64, 64)], 64, classes)


def residual(channels: int, classes: int) -> nn.Module:
    """Like ResNet."""
    blocks = [Residual(16, 24, 2), Residual(24, 24, 1), Residual(24, 48, 2)]
    return _headed([conv_bn(channels, 16), *blocks], 48, classes)


def depthwise(channels: int, classes: int) -> nn.Module:
    """Like MobileNetV1: depthwise and pointwise convolutions with ReLU6."""
    layers, width = [conv_bn(channels, 24, nn.ReLU6)], 24
    for outputs, stride in (48, 2), (64, 1), (96, 2), (128, 1):
        layers += [conv_bn(width, width, nn.ReLU6, stride=stride, groups=width)]
        layers += [conv_bn(width, outputs, nn.ReLU6, size=1)]
        width = outputs
    return _headed(layers, width, classes)


def darknet(channels: int, classes: int) -> nn.Module:
    """Like Darknet: LeakyReLU, 1x1 convolutions that narrow, a convolution as the last layer."""
    layers = [conv_bn(channels, 16, LEAKY), nn.MaxPool2d(2), conv_bn(16, 32, LEAKY), nn.MaxPool2d(2)]
    layers += [conv_bn(32, 16, LEAKY, size=1), conv_bn(16, 64, LEAKY), conv_bn(64, 32, LEAKY, size=1)]
    layers += [conv_bn(32, 96, LEAKY), nn.Conv2d(96, classes, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def squeezing(channels: int, classes: int) -> nn.Module:
    """Like MobileNetV3: squeeze and excite, HardSwish."""
    blocks = [Inverted(16, 24, 2), Inverted(24, 24, 1), Inverted(24, 40, 2), Inverted(40, 40, 1)]
    return _headed([conv_bn(channels, 16, nn.Hardswish), *blocks, conv_bn(40, 96, nn.Hardswish, size=1)], 96, classes)


def bare(channels: int, classes: int) -> nn.Module:
    """Like LeNet and AlexNet: no normalisation at all. Its first run fixes the size of the pictures."""
    layers = [nn.Conv2d(channels, 24, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.LazyLinear(96), nn.ReLU(), nn.Linear(96, classes))


def layer_normed(channels: int, classes: int) -> nn.Module:
    """Like ConvNeXt: patches, LayerNorm, GELU."""
    layers = [nn.Conv2d(channels, 32, 2, 2), ChannelNorm(32), NextBlock(32), NextBlock(32)]
    layers += [ChannelNorm(32), nn.Conv2d(32, 64, 2, 2), NextBlock(64), NextBlock(64)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, classes))


def mixed(channels: int, classes: int) -> nn.Module:
    """Maxima and means mixed, SiLU."""
    return _headed(
        [conv_bn(channels, 16, nn.SiLU), MixedPools(16, 32), MixedPools(32, 64), conv_bn(64, 64)], 64, classes
    )


class Preprocessed(nn.Module):
    """A network with arithmetic in front, (x - mean) / std, mean and std in bytes."""

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        for name, numbers in (("mean", mean), ("std", std)):
            self.register_buffer(name, 255.0 * torch.tensor(numbers).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Take bytes."""
        return self.body((x - self.mean) / self.std)


class ChannelsLast(nn.Module):
    """A network that takes (N, H, W, C), as those that come from TensorFlow do: a Transpose stands in front."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Take (N, H, W, C)."""
        return self.body(x.permute(0, 3, 1, 2))
