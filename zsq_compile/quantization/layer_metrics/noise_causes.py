"""Why does a layer lose what it loses? Causes that can be read off its noise and its inputs, each with a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.target import NumberFormat

TOO_NARROW = 3.0
"""Cutting noise over rounding noise from which on a grid is too narrow.

A grid of twice the range rounds with four times the noise and cuts hardly anything, so it would be better from here on.
"""

SPREAD = 8.0
"""Strongest over median channel from which on one scale for all channels is the cause.

Half of the channels then have three bits less than the grid says. Behind batch normalisation 1 to 8 is what is found.
"""

OUTLIER = 4.0
"""Largest number over the 99.9 % quantile from which on outliers are the cause.

Two bits of the grid then serve one number in a thousand. Of a million normal numbers the ratio is 1.5, of Laplacian
ones 2, and in networks where nothing is amiss up to 2.7.
"""

FEW_BITS = 4
"""Widths up to this one are themselves the cause where nothing else is.

The best 16 levels leave a normal number 20 dB, 8 levels 14, 4 levels 9 (Max 1960); 256 levels more than 40.
"""

LARGE_BIAS = 2.0**29
"""Code of an int32 bias, a quarter of the largest, from which on the bias decides its layer's weight steps.

Steps are widened until a bias fits (see ``choose_weight_scales``). A bias that needs no such room is a sum's offset
and has codes of the sum's own size: 2^24 for 500 products of 8 bits.
"""

_QUANTILE = 0.999
_SILENT = 1e-6  # of the strongest channel: 120 dB below it
_SAMPLE = 1 << 18  # of them 262 lie beyond the quantile


class GridNoise:
    """What one activation grid does to a value, added up over batches.

    Attributes:
        name: of the value.
        cut: squared error of numbers beyond the grid's ends.
        rounded: squared error of all others.
        beyond: how many numbers are beyond the ends.
        elements: how many there are.
        largest: greatest magnitude.
        usual: 99.9 % quantile of the magnitudes that are not 0, which a Relu makes; the greatest over batches.

    """

    def __init__(self, name: str, number_format: NumberFormat) -> None:
        self.name = name
        self.bits = number_format.bits
        self.cut = self.rounded = self.largest = self.usual = 0.0
        self.beyond = self.elements = 0.0
        self._limits = number_format.qmin, number_format.qmax
        self._channels: Tensor | None = None

    def observe(self, values: Tensor, scale: Tensor, zero_point: Tensor, channel_axis: int) -> None:
        """Add a batch of float values, any shape, on a grid of one scale; of many values a part stands for all."""
        if not values.numel():
            return
        low, high = torch.aminmax(values)
        self.largest = max(self.largest, -float(low), float(high))
        rows = by_channel(values, channel_axis)
        rows = rows[:, :: rows.numel() // _SAMPLE + 1]
        weight = values.numel() / rows.numel()
        codes = torch.round(rows / scale) + zero_point
        inside = codes.clamp(*self._limits)
        errors = ((inside - zero_point) * scale - rows).square_()
        outside = codes != inside
        cut = weight * float((errors * outside).sum())
        self.cut += cut
        self.rounded += max(weight * float(errors.sum()) - cut, 0.0)
        self.beyond += weight * int(outside.sum())
        self.elements += values.numel()
        magnitudes = rows.abs()
        present = magnitudes[magnitudes > 0]
        if len(present):
            self.usual = max(self.usual, float(present.kthvalue(max(int(_QUANTILE * len(present)), 1)).values))
        sums = torch.stack([magnitudes.sum(1), (magnitudes > 0).sum(1)]).double()
        self._channels = sums if self._channels is None else self._channels + sums

    def spread(self) -> float:
        """Mean magnitude of the strongest channel over that of the median one.

        Zeros are left out, and channels that are silent beside the strongest one: no width of the grid would help them.
        """
        if self._channels is None:
            return 1.0
        sums, counts = self._channels[:, self._channels[1] > 0]
        levels = sums / counts
        heard = levels[levels > _SILENT * levels.max()] if len(levels) else levels
        return float(heard.max() / heard.median()) if len(heard) else 1.0

    def outlier(self) -> float:
        """Largest magnitude over the usual one."""
        return self.largest / self.usual if self.usual > 0.0 else 1.0


def by_channel(values: Tensor, axis: int) -> Tensor:
    """Rows of the channels, (channels, elements of each); one row for a value that has no such axis."""
    return values.reshape(1, -1) if values.ndim < 2 else values.movedim(axis, 0).flatten(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightNoise:
    """What rounding its weights and bias does to a layer whose inputs are exact.

    Attributes:
        bits: width of the weights.
        power: squared error, summed.
        large_bias: share of it, 0 to 1, in channels whose bias code is beyond LARGE_BIAS.
        largest_bias: greatest magnitude of a bias code.

    """

    bits: int
    power: float
    large_bias: float
    largest_bias: float


def reason(total: float, weights: WeightNoise | None, grids: Sequence[GridNoise]) -> str | None:
    """Tell the main cause of a layer's own noise, in words; None when it loses nothing, or when nothing stands out.

    ``total`` is the squared error of what the layer makes, summed, when its inputs are exact but for their own
    ``grids``; ``weights`` is the part of it that the weights make.
    """
    if not total > 0.0:
        return None
    share = 0.0 if weights is None else min(weights.power / total, 1.0)
    if weights is not None and share > 0.5:
        return _weight_reason(weights, share)
    powers = [grid.cut + grid.rounded for grid in grids]
    if not sum(powers) > 0.0:
        return None
    return _grid_reason(grids[powers.index(max(powers))], (1.0 - share) * max(powers) / sum(powers))


def _weight_reason(weights: WeightNoise, share: float) -> str | None:
    if weights.large_bias > 0.5:
        return f"bias overflow: a bias of code {weights.largest_bias:.2g} in int32 coarsens the weights' steps"
    if weights.bits <= FEW_BITS:
        return f"few bits: {weights.bits}-bit weights make {share:.0%} of the noise"
    return None


def _grid_reason(grid: GridNoise, share: float) -> str | None:
    narrow, beyond = grid.cut > TOO_NARROW * grid.rounded, grid.beyond / grid.elements
    if narrow and (beyond > 1.0 - _QUANTILE or grid.outlier() < OUTLIER):
        return f"saturated: {beyond:.2%} of '{grid.name}' lies beyond its grid and is cut"
    if not narrow and grid.spread() >= SPREAD:
        return f"per-channel spread: one channel of '{grid.name}' is {grid.spread():.0f} times the median one"
    if grid.outlier() >= OUTLIER:
        cut = ", and is cut" if narrow else ""
        return f"range outlier: the largest of '{grid.name}' is {grid.outlier():.0f} times the 99.9 % quantile{cut}"
    if grid.bits <= FEW_BITS:
        return f"few bits: the {grid.bits}-bit grid of '{grid.name}' makes {share:.0%} of the noise"
    return None
