"""Padding of convolutions and pools: ONNX's ``pads`` and ``auto_pad`` in torch's terms."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir

from passes.windows import Sizes, same_padding
from zsq_compile.differentiable.arguments import integers, refuse, text

Padding: TypeAlias = Callable[[Sequence[int], Sequence[int], Sequence[int], Sequence[int]], tuple[Sizes, Sizes]]


def split_pads(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return the order of ``torch.nn.functional.pad``: last axis first, begin and end of each."""
    return [amount for pair in zip(reversed(begins), reversed(ends), strict=True) for amount in pair]


def window_padding(node: ir.Node) -> Padding:
    """Read ``auto_pad`` and ``pads``: a function of (sizes, kernel, strides, dilations) -> (begins, ends)."""
    auto, pads = text(node, "auto_pad", "NOTSET") or "NOTSET", integers(node, "pads")
    if auto == "NOTSET" and pads:
        fixed = pads[: len(pads) // 2], pads[len(pads) // 2 :]
        return lambda sizes, kernel, strides, dilations: fixed
    if auto in ("NOTSET", "VALID"):
        return lambda sizes, kernel, strides, dilations: ((0,) * len(sizes), (0,) * len(sizes))
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        refuse(node, f"auto_pad {auto!r} is not known")
    return functools.partial(same_padding, upper=auto == "SAME_UPPER")
