"""Fourier transforms and window functions."""

import math
from collections.abc import Sequence
from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor

from zsq_compile.differentiable.arguments import (
    TORCH_TYPES,
    Builder,
    Input,
    Kernel,
    Numbers,
    Row,
    element_type,
    integer,
)


def _complex(x: Tensor) -> Tensor:
    """Join the last axis of size 1 (real) or 2 (real, imaginary)."""
    joined: Tensor = x[..., 0] if x.shape[-1] == 1 else torch.complex(x[..., 0], x[..., 1])
    return joined


def _spectrum(x: Tensor, length: int | None, axis: int, *, inverse: bool, onesided: bool) -> Tensor:
    signal = _complex(x)
    if inverse and onesided:
        real: Tensor = torch.fft.irfft(signal, length, axis)
        return real.unsqueeze(-1)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(signal, length, axis))
    transform = torch.fft.rfft if onesided else torch.fft.fft
    return torch.view_as_real(transform(signal, length, axis))


def _dft(node: ir.Node, *, default_axis: int) -> Kernel:
    inverse, onesided = bool(integer(node, "inverse")), bool(integer(node, "onesided"))
    numbers, along = Numbers(), Numbers((integer(node, "axis", default_axis),))

    def run(x: Tensor, length: Input = None, axis: Input = None) -> Tensor:
        size = None if length is None else numbers.ints(length)[0]
        return _spectrum(x, size, along.ints(axis)[0] % x.dim(), inverse=inverse, onesided=onesided)

    return run


def _stft(node: ir.Node) -> Kernel:
    onesided = bool(integer(node, "onesided", 1))
    hop, frame = Numbers(), Numbers()

    def run(x: Tensor, step: Tensor, window: Input = None, length: Input = None) -> Tensor:
        whole = x.shape[1] if window is None else window.shape[0]
        size = whole if length is None else frame.ints(length)[0]
        frames = x.unfold(1, size, hop.ints(step)[0]).movedim(-1, 2)  # (batch, frames, size, 1 or 2)
        if window is not None:
            frames = frames * window.reshape(-1, 1)
        return _spectrum(frames, None, 2, inverse=False, onesided=onesided)

    return run


def _window(coefficients: Sequence[float]) -> Builder:
    """Sum of cosines: sum_k (-1)^k a_k cos(2 pi k n / size)."""

    def build(node: ir.Node) -> Kernel:
        periodic = integer(node, "periodic", 1)
        kind = TORCH_TYPES[element_type(node, "output_datatype")]
        numbers = Numbers()

        def run(size: Tensor) -> Tensor:
            count = numbers.ints(size)[0]
            angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / (count if periodic else count - 1)
            waves = [(-1) ** k * factor * torch.cos(k * angle) for k, factor in enumerate(coefficients)]
            return torch.stack(waves).sum(0).to(kind)

        return run

    return build


ROWS: tuple[Row, ...] = (
    ("DFT", (17,), partial(_dft, default_axis=1), (1,)),
    ("DFT", (20,), partial(_dft, default_axis=-2), (1, 2)),
    ("STFT", (17,), _stft, (1, 3)),
    ("HannWindow", (17,), _window((0.5, 0.5)), (0,)),
    ("HammingWindow", (17,), _window((25 / 46, 21 / 46)), (0,)),
    ("BlackmanWindow", (17,), _window((0.42, 0.5, 0.08)), (0,)),
)
