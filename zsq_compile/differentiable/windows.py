"""Padding of sliding windows (convolutions, pools): ONNX's ``pads`` and ``auto_pad`` in torch's terms."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir

from zsq_compile.differentiable.arguments import integers, refuse, text

Sizes: TypeAlias = tuple[int, ...]
Padding: TypeAlias = Callable[[Sequence[int], Sequence[int], Sequence[int], Sequence[int]], tuple[Sizes, Sizes]]


def split_pads(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Order of ``torch.nn.functional.pad``: last axis first, begin and end of each."""
    return [amount for pair in zip(reversed(begins), reversed(ends), strict=True) for amount in pair]


def same_padding(totals: Sequence[int], *, upper: bool) -> tuple[Sizes, Sizes]:
    """Halve the total padding of each axis; ``upper`` gives the odd one to the end."""
    small = tuple(total // 2 for total in totals)
    large = tuple(total - half for total, half in zip(totals, small, strict=True))
    return (small, large) if upper else (large, small)


def window_padding(node: ir.Node) -> Padding:
    """Read ``auto_pad`` and ``pads``: a function of (sizes, kernel, strides, dilations) -> (begins, ends)."""
    auto = text(node, "auto_pad", "NOTSET") or "NOTSET"
    pads = integers(node, "pads")
    if auto == "NOTSET" and pads is not None:
        half = len(pads) // 2
        fixed = (pads[:half], pads[half:])
        return lambda sizes, kernel, strides, dilations: fixed
    if auto in ("NOTSET", "VALID"):
        return lambda sizes, kernel, strides, dilations: ((0,) * len(sizes), (0,) * len(sizes))
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        refuse(node, f"auto_pad {auto!r} is not known")
    upper = auto == "SAME_UPPER"

    def from_sizes(
        sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
    ) -> tuple[Sizes, Sizes]:
        totals = [
            max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
            for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        return same_padding(totals, upper=upper)

    return from_sizes
