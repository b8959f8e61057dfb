"""What numbers networks usually expect of a pixel: the conventions in common use."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.0 / 255, 117.0 / 255, 104.0 / 255)
_GRAY_MEAN, _GRAY_STD = (0.449,), (0.226,)

RAW_PRODUCERS = ("CNTK",)
"""Toolkits whose image readers hand on raw pixels; users of other exporters scale pixels as they like."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """Network input = (pixel - mean) / std with pixels in [0, 1], then the channel order.

    Attributes:
        name: "unit", "symmetric", "imagenet", "byte" or "byte_bgr".
        mean: per channel, in RGB order.
        std: per channel, in RGB order.
        channel_order: "bgr" reverses the three channels after scaling.

    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: Literal["rgb", "bgr", "gray"]

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C, H, W) pixels in [0, 1] -> what the network is fed."""
        mean, std = (np.asarray(values, np.float32).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        scaled = (pixels - mean) / std
        return np.ascontiguousarray(scaled[:, ::-1] if self.channel_order == "bgr" else scaled)


def usual_conventions(channels: int) -> tuple[Convention, ...]:
    """Conventions for images of 3 or 1 channels."""
    order: Literal["rgb", "gray"] = "rgb" if channels == 3 else "gray"
    imagenet = (_IMAGENET_MEAN, _IMAGENET_STD) if channels == 3 else (_GRAY_MEAN, _GRAY_STD)
    rows: list[tuple[str, tuple[float, ...], tuple[float, ...], Literal["rgb", "bgr", "gray"]]] = [
        ("unit", (0.0,) * channels, (1.0,) * channels, order),
        ("symmetric", (0.5,) * channels, (0.5,) * channels, order),
        ("imagenet", *imagenet, order),
        ("byte", (0.0,) * channels, (1.0 / 255,) * channels, order),
    ]
    if channels == 3:
        rows.append(("byte_bgr", _CAFFE_MEAN, (1.0 / 255,) * 3, "bgr"))
    return tuple(Convention(name=name, mean=mean, std=std, channel_order=given) for name, mean, std, given in rows)
