"""A range for values that may come from several populations, only one of which will be met in use.

Where it is not known how an input is prepared, the values of a layer under one preprocessing may be several times those
under another. The range of least error over all samples is that of the large ones, and rounds the small ones away. Here
the error of each population is measured on its own, in units of that population's variance, and the range is that whose
largest of these errors is smallest. An amplitude of error counts in proportion to the probability of its population: an
improbable one takes little resolution from the others. Squares count, and not the 2.4-norm of ``choose_range``, which
weighs the few numbers that are cut off the large population more than the rounding of all numbers of the small one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backends.target import NumberFormat
from zsq_compile.config.compile import CalibrationMethod
from zsq_compile.quantization.calibration.observers import Histogram, choose_range, quantized_centres

_NARROWEST = 0.04  # of the range of all values
_TRIES, _PLACES, _ZOOMS = 120, 11, 4
_ZOOM = 3.5


def choose_joint_range(
    histograms: Sequence[Histogram],
    probabilities: Sequence[float],
    number_format: NumberFormat,
    method: CalibrationMethod,
) -> tuple[float, float]:
    """Lowest and highest number that a quantizer should represent for the worst of several populations.

    Args:
        histograms: what calibration saw of each population.
        probabilities: of each population, in any unit.
        number_format: grid that will cover the range.
        method: ``mse`` is as the module says; all others cover the range that ``choose_range`` reads off each
            population.

    """
    if len(histograms) == 1:
        return choose_range(histograms[0], number_format, method)
    seen = [
        (one, probability)
        for one, probability in zip(histograms, probabilities, strict=True)
        if one.high > one.low and float(one.counts.sum()) > 0.0
    ]
    if method != "mse" or len(seen) < 2:
        ends = [choose_range(one, number_format, method) for one in histograms]
        return min(low for low, _ in ends), max(high for _, high in ends)
    most = max(probability for _, probability in seen)
    weights = [(probability / most) ** 2 / _variance(one) for one, probability in seen]

    def cost(low: Tensor, high: Tensor) -> Tensor:
        errors = [_squared_error(one, number_format, low, high) for one, _ in seen]
        return torch.stack([weight * error for weight, error in zip(weights, errors, strict=True)]).amax(0)

    return _search(min(one.low for one, _ in seen), max(one.high for one, _ in seen), cost)


def _variance(histogram: Histogram) -> float:
    """Sum of the squared deviations from the mean of all that was counted."""
    centres, counts = histogram.centres(), histogram.counts
    mean = (centres @ counts) / counts.sum()
    return max(float((centres - mean).square() @ counts), 1e-30)


def _squared_error(histogram: Histogram, number_format: NumberFormat, low: Tensor, high: Tensor) -> Tensor:
    """Sum of squared errors for each candidate, (candidates,)."""
    _, values = quantized_centres(histogram, number_format, low, high)
    return (values - histogram.centres()).square() @ histogram.counts


def _search(low: float, high: float, cost: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Range of least cost, on a scale of ratios: one-sided values shrink one end, others each end on its own."""
    least = torch.tensor(_NARROWEST, dtype=torch.float64).log()
    if low == 0.0 or high == 0.0:
        shrunk = torch.linspace(float(least), 0.0, _TRIES, dtype=torch.float64).exp()
        best = float(shrunk[int(torch.argmin(cost(low * shrunk, high * shrunk)))])
        return low * best, high * best
    centres, reach = least.expand(2) / 2.0, -least / 2.0
    for _ in range(_ZOOMS):
        ends = [
            torch.linspace(float(max(one - reach, least)), float(min(one + reach, least * 0.0)), _PLACES).double().exp()
            for one in centres
        ]
        pairs = torch.cartesian_prod(*ends)
        centres = pairs[int(torch.argmin(cost(low * pairs[:, 0], high * pairs[:, 1])))].log()
        reach = reach / _ZOOM
    best_low, best_high = centres.exp().tolist()
    return low * best_low, high * best_high
