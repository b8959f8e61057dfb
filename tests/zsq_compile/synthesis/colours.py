"""A classifier of plain colours, made by hand, that remembers pictures of each of its classes."""

import numpy as np
import onnx
import torch
from torch.nn import functional

from tests import models
from tests.zsq_compile.synthesis.networks import seeded

SIDE = 8


def pictures(channels: int, count: int = 96) -> np.ndarray:
    """(N, C, 8, 8) pixels: textures whose channel k % C is bright and whose others are not; of one, dark or bright."""
    texture = functional.avg_pool2d(torch.rand(count, channels, SIDE, SIDE, generator=seeded(5)), 3, 1, 1)
    numbers = torch.arange(count) % max(channels, 2)
    bright = functional.one_hot(numbers, max(channels, 2))[:, -channels:].float()
    return (0.25 + 0.3 * bright[:, :, None, None] + 0.4 * (texture - 0.5)).numpy()


def colour_classifier(
    channels: int = 3, *, ending: str = "logits = Identity(scores)", gain: float = 20.0
) -> onnx.ModelProto:
    """Class k is the brightest channel; of one channel, class 1 is bright and class 0 is not."""
    shown = pictures(channels).astype(np.float64)
    classes = max(channels, 2)
    direction = gain * (np.eye(classes) if channels > 1 else np.array([[-1.0, 1.0]]))
    offset = np.zeros(classes) if channels > 1 else -direction[0] * shown.mean()
    return models.parse(
        f"""
        colours (float[N,{channels},{SIDE},{SIDE}] x) => (float[N,{classes}] logits)
        <float[{channels},{channels},1,1] w0, float[{channels}] scale, float[{channels}] shift,
         float[{channels}] mean, float[{channels}] variance, float[{channels},{classes}] w1, float[{classes}] b1>
        {{
            [conv] c = Conv(x, w0)
            [bn] n = BatchNormalization(c, scale, shift, mean, variance)
            [pool] p = GlobalAveragePool(n)
            [flatten] f = Flatten(p)
            [gemm] scores = Gemm(f, w1, b1)
            {ending}
        }}
        """,
        weights={
            "w0": np.eye(channels).reshape(channels, channels, 1, 1),
            "mean": shown.mean((0, 2, 3)),
            "variance": shown.var((0, 2, 3)),
            # the normalisation undone, so that the scores are those of the picture itself
            "scale": shown.std((0, 2, 3)),
            "shift": shown.mean((0, 2, 3)),
            "w1": direction,
            "b1": offset,
        },
    )
