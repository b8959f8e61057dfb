"""Resize, Upsample and sampling on a grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from zsq_compile.differentiable.arguments import Input, Kernel, Numbers, Row, integer, integers, number, refuse, text


@dataclass(frozen=True, slots=True)
class _Rule:
    """Attributes of Resize."""

    mode: str
    coordinates: str
    nearest: str
    cubic_a: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float

    def positions(self, size: int, length: int, scale: float, window: tuple[float, float]) -> NDArray[np.float64]:
        """Return the coordinate of each of ``length`` outputs among the ``size`` inputs."""
        places = np.arange(length, dtype=np.float64)
        if self.coordinates == "align_corners":
            return places * (size - 1) / (length - 1) if length > 1 else places
        if self.coordinates == "asymmetric":
            return places / scale
        if self.coordinates == "tf_half_pixel_for_nn":
            return (places + 0.5) / scale
        if self.coordinates == "tf_crop_and_resize":
            start, end = window
            if length == 1:
                return places + 0.5 * (start + end) * (size - 1)
            return start * (size - 1) + places * (end - start) * (size - 1) / (length - 1)
        if self.coordinates == "pytorch_half_pixel" and length == 1:
            return places
        offset = 0.0
        if self.coordinates == "half_pixel_symmetric":
            offset = size / 2 * (1 - length / (scale * size))
        return offset + (places + 0.5) / scale - 0.5

    def nearest_index(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Round positions by ``nearest_mode``."""
        if self.nearest == "round_prefer_floor":
            return np.ceil(places - 0.5)
        if self.nearest == "round_prefer_ceil":
            return np.floor(places + 0.5)
        return np.floor(places) if self.nearest == "floor" else np.ceil(places)

    def taps(
        self, places: NDArray[np.float64], size: int, scale: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return (length, taps) input indices and weights."""
        if self.mode == "nearest":
            index = self.nearest_index(places)[:, None]
            return np.clip(index, 0, size - 1).astype(np.int64), np.ones_like(index)
        shrink = min(scale, 1.0) if self.antialias else 1.0
        reach = (1.0 if self.mode == "linear" else 2.0) / shrink
        first = math.floor(-reach) + 1
        base = np.floor(places)
        offsets = np.arange(first, 2 - first)
        distance = np.abs(offsets[None, :] - (places - base)[:, None]) * shrink
        weights = np.clip(1 - distance, 0, 1) if self.mode == "linear" else self._cubic(distance)
        index = base[:, None] + offsets[None, :]
        if self.exclude_outside:
            weights = np.where((index < 0) | (index > size - 1), 0.0, weights)
        weights = weights / weights.sum(axis=1, keepdims=True)
        return np.clip(index, 0, size - 1).astype(np.int64), weights

    def _cubic(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        a = self.cubic_a
        near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _along_axis(x: Tensor, axis: int, index: NDArray[np.int64], weights: NDArray[np.float64]) -> Tensor:
    """Weighted sum of ``x`` gathered along one axis."""
    places = torch.from_numpy(index).to(x.device)
    if index.shape[1] == 1:
        return x.index_select(axis, places[:, 0])
    factors = torch.from_numpy(weights).to(x.device, x.dtype)
    shape = (-1, *(1,) * (x.dim() - 1 - axis))
    terms = [x.index_select(axis, places[:, k]) * factors[:, k].reshape(shape) for k in range(index.shape[1])]
    return torch.stack(terms).sum(0) if len(terms) > 4 else sum(terms[1:], terms[0])


def _fast(x: Tensor, rule: _Rule, sizes: Sequence[int], scales: Sequence[float]) -> Tensor | None:
    """Interpolate by torch's own operator where it means the same as ONNX's, else None."""
    exact = all(size == n * scale for size, n, scale in zip(sizes, x.shape, scales, strict=True))
    if x.dim() != 4 or not exact or tuple(sizes[:2]) != tuple(x.shape[:2]) or not x.is_floating_point():
        return None
    target = list(sizes[2:])
    if rule.mode == "nearest":
        whole = all(scale == int(scale) for scale in scales)
        floors = rule.coordinates == "asymmetric" and rule.nearest == "floor"
        rounds = rule.coordinates == "half_pixel" and rule.nearest.startswith("round")
        return functional.interpolate(x, target, mode="nearest") if whole and (floors or rounds) else None
    if rule.mode != "linear" or rule.antialias or rule.exclude_outside:
        return None
    if rule.coordinates == "align_corners":
        return functional.interpolate(x, target, mode="bilinear", align_corners=True)
    if rule.coordinates == "half_pixel" or (rule.coordinates == "pytorch_half_pixel" and min(target) > 1):
        return functional.interpolate(x, target, mode="bilinear", align_corners=False)
    return None


def resize(x: Tensor, rule: _Rule, sizes: Sequence[int], scales: Sequence[float], roi: Sequence[float]) -> Tensor:
    """Resample ``x`` to ``sizes``, axis by axis."""
    fast = _fast(x, rule, sizes, scales)
    if fast is not None:
        return fast
    kind = x.dtype
    if rule.mode != "nearest" and not x.is_floating_point():
        x = x.to(torch.float32)
    outside: Input = None
    rank = x.dim()
    for axis, (length, scale) in enumerate(zip(sizes, scales, strict=True)):
        window = (roi[axis], roi[axis + rank]) if roi else (0.0, 1.0)
        size = x.shape[axis]
        if length == size and scale == 1.0 and window == (0.0, 1.0):
            continue
        places = rule.positions(size, length, scale, window)
        x = _along_axis(x, axis, *rule.taps(places, size, scale))
        if rule.coordinates == "tf_crop_and_resize":
            beyond = torch.from_numpy((places < 0) | (places > size - 1)).to(x.device)
            beyond = beyond.reshape(-1, *(1,) * (rank - 1 - axis))
            outside = beyond if outside is None else outside | beyond
    if outside is not None:
        x = torch.where(outside, torch.full_like(x, rule.extrapolation), x)
    return x.to(kind)


def _rule(node: ir.Node) -> _Rule:
    mode = text(node, "mode", "nearest")
    if mode not in ("nearest", "linear", "cubic", "bilinear"):
        refuse(node, f"mode {mode!r} is not known")
    return _Rule(
        mode="linear" if mode == "bilinear" else mode,
        coordinates=text(node, "coordinate_transformation_mode", "half_pixel"),
        nearest=text(node, "nearest_mode", "round_prefer_floor"),
        cubic_a=number(node, "cubic_coeff_a", -0.75),
        exclude_outside=bool(integer(node, "exclude_outside")),
        antialias=bool(integer(node, "antialias")),
        extrapolation=number(node, "extrapolation_value"),
    )


def _upsample(node: ir.Node) -> Kernel:
    rule = replace(_rule(node), coordinates="asymmetric")
    factors = Numbers(node.attributes.get_floats("scales", ()))

    def run(x: Tensor, scales: Input = None) -> Tensor:
        ratios = factors.floats(scales)
        sizes = [math.floor(n * ratio) for n, ratio in zip(x.shape, ratios, strict=True)]
        nearest = "floor" if min(ratios) >= 1 else "ceil"  # as ONNX Runtime rounds before opset 11
        return resize(x, replace(rule, nearest=nearest), sizes, ratios, ())

    return run


def _resize(node: ir.Node) -> Kernel:
    rule = _rule(node)
    axes, policy = integers(node, "axes"), text(node, "keep_aspect_ratio_policy", "stretch")
    region, factor, target = Numbers(), Numbers(), Numbers()

    def run(x: Tensor, roi: Input = None, scales: Input = None, sizes: Input = None) -> Tensor:
        along = [axis % x.dim() for axis in axes or range(x.dim())]
        window: list[float] = []
        if roi is not None and roi.numel() and rule.coordinates == "tf_crop_and_resize":
            bounds, half = region.floats(roi), len(along)
            window = [0.0] * x.dim() + [1.0] * x.dim()
            for place, axis in enumerate(along):
                window[axis], window[axis + x.dim()] = bounds[place], bounds[place + half]
        factors, lengths = [1.0] * x.dim(), list(x.shape)
        if sizes is not None and sizes.numel():
            wanted = target.ints(sizes)
            ratios = [want / x.shape[axis] for want, axis in zip(wanted, along, strict=True)]
            if policy != "stretch":
                ratios = [min(ratios) if policy == "not_larger" else max(ratios)] * len(ratios)
                wanted = tuple(math.floor(x.shape[axis] * ratios[0] + 0.5) for axis in along)
            for axis, want, ratio in zip(along, wanted, ratios, strict=True):
                lengths[axis], factors[axis] = want, ratio
        elif scales is not None:
            for axis, ratio in zip(along, factor.floats(scales), strict=True):
                extent = window[axis + x.dim()] - window[axis] if window else 1.0
                lengths[axis], factors[axis] = math.floor(x.shape[axis] * extent * ratio), ratio
        return resize(x, rule, lengths, factors, window)

    return run


def _grid_sample(node: ir.Node) -> Kernel:
    mode = text(node, "mode", "bilinear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    border, corners = text(node, "padding_mode", "zeros"), bool(integer(node, "align_corners"))
    return lambda x, grid: functional.grid_sample(x, grid, mode, border, corners)


def _affine_grid(node: ir.Node) -> Kernel:
    corners = bool(integer(node, "align_corners"))
    numbers = Numbers()
    return lambda theta, size: functional.affine_grid(theta, list(numbers.ints(size)), align_corners=corners)


ROWS: tuple[Row, ...] = (
    ("Upsample", (7, 9, 10), _upsample, (1,)),
    ("Resize", (10,), _upsample, (1,)),
    ("Resize", (11, 13, 18, 19), _resize, (1, 2, 3)),
    ("GridSample", (16, 20, 22), _grid_sample),
    ("AffineGrid", (20,), _affine_grid, (1,)),
)
