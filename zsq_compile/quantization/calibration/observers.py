"""What range should a quantizer cover? Histograms of a value, and four ways to read a range off one.

A range is found in two passes over the data (extremes first, then a histogram between them), so that memory does not
grow with the number of batches and the result does not depend on how the data were cut into batches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from backends.target import NumberFormat
from zsq_compile.config.compile import CalibrationMethod

BINS = 2048
CLIPPING_NORM = 2.4  # BRECQ and QDrop search clipping ranges under this norm; 2 clips rare large values too early
_CANDIDATES = 100
Activate: TypeAlias = Callable[[Tensor], Tensor]
"""An activation function, element by element, on float64 tensors of any shape."""

_CHUNK = 1 << 23  # torch.histc counts in float32 and stands still at 2^24 in one bin
_PERCENTILE = 99.99


@dataclass(slots=True)
class Extremes:
    """Smallest and largest number seen; 0 is always inside, since zero padding must be representable."""

    low: float = 0.0
    high: float = 0.0

    def observe(self, values: Tensor) -> None:
        """Widen to a batch of any shape; one of no elements has none."""
        if not values.numel():
            return
        low, high = torch.aminmax(values.detach())
        # torch keeps a NaN that Python's min and max would drop
        self.low = float(torch.minimum(low, low.new_tensor(self.low)))
        self.high = float(torch.maximum(high, high.new_tensor(self.high)))


class Histogram:
    """Counts of a value in equal bins between its extremes.

    Attributes:
        low, high: edges of the first and the last bin, low <= 0 <= high.
        counts: float64 tensor, (BINS,).

    """

    def __init__(self, extremes: Extremes) -> None:
        self.low, self.high = extremes.low, extremes.high
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def observe(self, values: Tensor) -> None:
        """Count a batch of any shape."""
        if self.high > self.low and values.numel():
            for part in torch.split(values.detach().float().flatten(), _CHUNK):
                self.counts += torch.histc(part, BINS, self.low, self.high).double().cpu()

    def weigh(self, values: Tensor, weights: Tensor) -> None:
        """Count a batch of any shape, each number as often as its weight, of the same shape, says."""
        if self.high > self.low and values.numel():
            places = (values.detach().double().flatten() - self.low) / (self.high - self.low) * BINS
            inside = (places >= 0.0) & (places <= BINS)
            bins = places[inside].long().clamp(max=BINS - 1)
            self.counts += torch.bincount(bins, weights.double().flatten()[inside], minlength=BINS).cpu()

    def centres(self) -> Tensor:
        """Middle of each bin, float64, (BINS,)."""
        width = (self.high - self.low) / BINS
        return self.low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)


def choose_range(
    histogram: Histogram, number_format: NumberFormat, method: CalibrationMethod, activate: Activate | None = None
) -> tuple[float, float]:
    """Lowest and highest number that a quantizer of this format should represent, always with 0 inside.

    Args:
        histogram: what calibration saw.
        number_format: grid that will cover the range; ``mse`` and ``entropy`` depend on its number of codes.
        method: ``minmax`` all of it; ``percentile`` all but 0.01 % at each end; ``mse`` the range with the least
            quantization error under the 2.4-norm (QDrop, Wei et al. 2022, appendix); ``entropy`` the range whose
            quantized distribution is nearest in Kullback-Leibler divergence (Migacz 2017).
        activate: an activation function that alone reads the value; under ``mse`` the error behind it counts: a SiLU
            makes next to nothing of what is far below 0, and codes for that are taken from the rest. None for none.

    """
    if histogram.high <= histogram.low or float(histogram.counts.sum()) == 0.0:
        return histogram.low, histogram.high
    match method:
        case "minmax":
            return histogram.low, histogram.high
        case "percentile":
            return _percentile_range(histogram)
        case "mse":
            return _search(histogram, lambda low, high: _error(histogram, number_format, low, high, activate))
        case "entropy":
            return _search(histogram, lambda low, high: _divergence(histogram, number_format, low, high))


def _percentile_range(histogram: Histogram) -> tuple[float, float]:
    share = torch.cumsum(histogram.counts, 0) / histogram.counts.sum()
    edges = torch.linspace(histogram.low, histogram.high, BINS + 1, dtype=torch.float64)
    tail = 1.0 - _PERCENTILE / 100.0
    low = float(edges[int(torch.searchsorted(share, tail, right=True))])
    high = float(edges[min(BINS, int(torch.searchsorted(share, 1.0 - tail)) + 1)])
    return min(low, 0.0), max(high, 0.0)


def _search(histogram: Histogram, cost: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Range of least cost: one-sided values shrink one end, two-sided ones each end on its own, coarse then fine."""
    if histogram.low == 0.0 or histogram.high == 0.0:
        shrunk = torch.linspace(0.1, 1.0, _CANDIDATES, dtype=torch.float64)
        best = float(shrunk[int(torch.argmin(cost(histogram.low * shrunk, histogram.high * shrunk)))])
        return histogram.low * best, histogram.high * best
    low, high, reach = 0.6, 0.6, 0.4
    for _ in range(2):
        lows, highs = (
            torch.linspace(max(centre - reach, 0.1), min(centre + reach, 1.0), 9, dtype=torch.float64)
            for centre in (low, high)
        )
        pairs = torch.cartesian_prod(lows, highs)
        low, high = pairs[int(torch.argmin(cost(histogram.low * pairs[:, 0], histogram.high * pairs[:, 1])))].tolist()
        reach /= 4.0
    return histogram.low * low, histogram.high * high


def quantized_centres(
    histogram: Histogram, number_format: NumberFormat, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Codes (from the lowest) and dequantized values of all bins for all candidates, each (candidates, BINS)."""
    levels = number_format.levels - 1
    if number_format.symmetric:
        middle = number_format.middle
        step = (torch.maximum(-low, high) / (number_format.qmax - middle))[:, None]
        codes = torch.clamp(torch.round(histogram.centres()[None, :] / step) + middle - number_format.qmin, 0, levels)
        return codes, (codes + number_format.qmin - middle) * step
    step = ((high - low) / levels)[:, None]
    lowest = torch.round(low[:, None] / step)  # 0 must be a code, so the grid starts at a whole number of steps
    codes = torch.clamp(torch.round(histogram.centres()[None, :] / step) - lowest, 0, levels)
    return codes, (codes + lowest) * step


def _error(
    histogram: Histogram, number_format: NumberFormat, low: Tensor, high: Tensor, activate: Activate | None
) -> Tensor:
    """Sum of |value - quantized value| ** 2.4, behind the activation, for each candidate, (candidates,)."""
    _, values = quantized_centres(histogram, number_format, low, high)
    centres = histogram.centres()
    if activate is not None:
        values, centres = activate(values), activate(centres)
    return ((values - centres).abs() ** CLIPPING_NORM) @ histogram.counts


def _divergence(histogram: Histogram, number_format: NumberFormat, low: Tensor, high: Tensor) -> Tensor:
    """Divergence from the clipped histogram to its quantized version for each candidate, (candidates,)."""
    codes, _ = quantized_centres(histogram, number_format, low, high)
    inside = torch.searchsorted(histogram.centres(), torch.stack([low, high]))
    counts = _without_zero_peak(histogram)
    results = []
    for row, first, last in zip(codes.long(), inside[0].tolist(), inside[1].tolist(), strict=True):
        clipped = counts[first:last].clone()
        if len(clipped) == 0:
            results.append(float("inf"))
            continue
        clipped[0] += counts[:first].sum()
        clipped[-1] += counts[last:].sum()
        occupied = (counts[first:last] > 0).double()
        code = row[first:last]
        levels = number_format.levels
        mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, code, counts[first:last])
        bins = torch.zeros(levels, dtype=torch.float64).index_add_(0, code, occupied)
        spread = torch.where(occupied > 0, mass[code] / bins[code].clamp(min=1.0), 0.0)
        reference, quantized = clipped / clipped.sum(), spread / spread.sum().clamp(min=1e-300)
        positive = reference > 0
        ratio = reference[positive] / quantized[positive].clamp(min=1e-12)
        results.append(float((reference[positive] * ratio.log()).sum()))
    return torch.tensor(results, dtype=torch.float64)


def _without_zero_peak(histogram: Histogram) -> Tensor:
    """Lower the bin of 0 to its neighbours.

    The zeros that a Relu makes are exact on every grid; taken for a peak of the distribution they would draw the range
    down to themselves. Published implementations of the method leave them out too.
    """
    counts = histogram.counts.clone()
    zero = min(BINS - 1, int(-histogram.low / (histogram.high - histogram.low) * BINS))
    beside = [counts[index] for index in (zero - 1, zero + 1) if 0 <= index < BINS]
    counts[zero] = torch.minimum(counts[zero], torch.stack(beside).max())
    return counts
