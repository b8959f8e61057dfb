"""Find how far values reach of which calibration sees few numbers, one for each channel and sample.

A map of 1000 positions shows its range in a few samples. What stands behind a pooling, as in a squeeze-and-excite
block, does not: 32 samples are 32 numbers of each channel, the next sample may lie beyond all of them, and a gate that
is cut scales a whole channel. So each sample is held against the range of the others, widened or narrowed: the factor
of least error, in the norm of ``choose_range``, serves for all of them (leave-one-out; `benchmarks/few_numbers.py`).
"""

import torch
from torch import Tensor

from backends.target import NumberFormat
from zsq_compile.differentiable.fake_quantize import round_to_codes
from zsq_compile.quantization.calibration.observers import CLIPPING_NORM
from zsq_compile.quantization.calibration.scales import scale_from_range

MOST = 4096
"""Numbers from which on they are enough to show a range."""

_LEAST_SAMPLES = 4
_NOTHING = 1e-9  # of the values' own power
_FACTORS = tuple(step / 20 for step in range(10, 41))  # of the range of the other samples


class FewNumbers:
    """What is seen of one group of values, as long as it is little.

    Attributes:
        rows: (samples, channels) of each batch and value, None where there is more than one number for each channel and
            sample, or more than ``MOST`` in all.

    """

    def __init__(self) -> None:
        self.rows: list[Tensor] | None = []

    def observe(self, values: Tensor) -> None:
        """Keep a batch of any shape, axis 0 the samples and axis 1 the channels."""
        if self.rows is None:
            return
        if values.ndim < 2 or values.numel() != values.shape[0] * values.shape[1]:
            self.rows = None
            return
        self.rows.append(values.detach().double().reshape(len(values), -1))
        if sum(rows.numel() for rows in self.rows) > MOST:
            self.rows = None

    def widen(self, number_format: NumberFormat) -> tuple[float, float] | None:
        """Range for all samples, the unseen ones among them; None where calibration has seen enough, or too little."""
        rows = [] if self.rows is None else self.rows
        if not rows or len({one.shape[1] for one in rows}) != 1:
            return None
        seen = torch.cat(rows)
        if len(seen) < _LEAST_SAMPLES or not seen.numel():
            return None
        ends = [_without_each(seen.amin(1).clamp(max=0.0).neg()).neg(), _without_each(seen.amax(1).clamp(min=0.0))]
        errors = torch.stack([_error(seen, factor * ends[0], factor * ends[1], number_format) for factor in _FACTORS])
        nothing = _NOTHING * (seen.abs() ** CLIPPING_NORM).sum()
        factor = _FACTORS[int((errors <= errors.min() + nothing).long().argmax())]  # the narrowest that does as well
        return factor * min(float(seen.min()), 0.0), factor * max(float(seen.max()), 0.0)


def _without_each(largest: Tensor) -> Tensor:
    """Largest of all others, for each of some numbers."""
    first, second = largest.topk(2).values
    at_first = torch.zeros_like(largest, dtype=torch.bool)
    at_first[largest.argmax()] = True
    return torch.where(at_first, second, first)


def _error(seen: Tensor, lows: Tensor, highs: Tensor, number_format: NumberFormat) -> Tensor:
    """Error of quantizing each row to a range of its own, summed."""
    total = seen.new_zeros(())
    for (low, high), rows in _by_range(seen, lows, highs):
        scale = scale_from_range(low, high, number_format)
        step, zero_point = float(scale.scale), int(scale.zero_point)
        made = (round_to_codes(rows, step, number_format, zero_point) - zero_point) * step
        total = total + ((made - rows).abs() ** CLIPPING_NORM).sum()
    return total


def _by_range(seen: Tensor, lows: Tensor, highs: Tensor) -> list[tuple[tuple[float, float], Tensor]]:
    """Rows of one range together: all but one or two have the same."""
    places: dict[tuple[float, float], list[int]] = {}
    for place, ends in enumerate(zip(lows.tolist(), highs.tolist(), strict=True)):
        places.setdefault(ends, []).append(place)
    return [(ends, seen[chosen]) for ends, chosen in places.items()]
