"""Padding of sliding windows, as the specification of ONNX's ``auto_pad`` has it."""

from collections.abc import Sequence

Sizes = tuple[int, ...]


def same_padding(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, upper: bool
) -> tuple[Sizes, Sizes]:
    """Return the padding before and behind each axis with which the output has ``ceil(size / stride)`` elements."""
    totals = [
        max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    return split_padding(totals, upper=upper)


def split_padding(totals: Sequence[int], *, upper: bool) -> tuple[Sizes, Sizes]:
    """Halve the total padding of each axis; the odd one goes behind with ``upper``, else before."""
    small = tuple(total // 2 for total in totals)
    large = tuple(total - half for total, half in zip(totals, small, strict=True))
    return (small, large) if upper else (large, small)
