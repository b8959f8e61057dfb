"""A range for values that may come from several populations, only one of which will be met in use.

Where it is not known how an input is prepared, the values of a layer under one preprocessing may be several times those
under another. The range of least error over all samples is that of the large ones, and rounds the small ones away. Here
the error of each population is measured on its own, in units of that population's variance, and the range is that whose
largest of these errors is smallest. An amplitude of error counts by the square of its population's probability: one
that is as probable as the best is served as well, and one of a tenth of that takes next to no resolution from it.

Squares count, and not the 2.4-norm of ``choose_range``, which weighs the few numbers that are cut off the large
population more than the rounding of all numbers of the small one. Where an activation function reads the value, the
error behind it counts: what a LeakyRelu makes ten times smaller need not be covered far.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backends.target import NumberFormat
from zsq_compile.config.compile import CalibrationMethod
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.calibration.observers import Activate, Histogram, choose_range, quantized_centres
from zsq_compile.quantization.samples import PROBABLE

_ACTIVATIONS = (
    *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus"),
    *("Mish", "Gelu"),
)
_NARROWEST = 0.3  # of the range of the smallest population
_TRIES, _PLACES, _ZOOMS = 120, 11, 4
_ZOOM = 3.5


def choose_joint_range(
    histograms: Sequence[Histogram],
    probabilities: Sequence[float],
    number_format: NumberFormat,
    method: CalibrationMethod,
    activate: Activate | None = None,
) -> tuple[float, float]:
    """Lowest and highest number that a quantizer should represent for the worst of several populations.

    Args:
        histograms: what calibration saw of each population.
        probabilities: of each population, in any unit.
        number_format: grid that will cover the range.
        method: ``mse`` is as the module says; all others cover the ranges that ``choose_range`` reads off the
            populations that are not improbable.
        activate: what is done with the value, element by element; None where that is not known.

    """
    if len(histograms) == 1:
        return choose_range(histograms[0], number_format, method, activate)
    seen = [
        (one, probability)
        for one, probability in zip(histograms, probabilities, strict=True)
        if one.high > one.low and float(one.counts.sum()) > 0.0
    ]
    if method != "mse" or len(seen) < 2:
        least = PROBABLE * max(probabilities)
        chosen = [one for one, own in zip(histograms, probabilities, strict=True) if own >= least]
        ends = [choose_range(one, number_format, method) for one in chosen]
        return min(low for low, _ in ends), max(high for _, high in ends)
    most = max(probability for _, probability in seen)
    behind = activate or _same
    weights = [(probability / most) ** 4 / _variance(one, behind) for one, probability in seen]

    def cost(low: Tensor, high: Tensor) -> Tensor:
        errors = [_squared_error(one, number_format, low, high, behind) for one, _ in seen]
        return torch.stack([weight * error for weight, error in zip(weights, errors, strict=True)]).amax(0)

    reaches = [max(-one.low, one.high) for one, _ in seen]
    narrowest = _NARROWEST * min(reaches) / max(reaches)
    return _search(min(one.low for one, _ in seen), max(one.high for one, _ in seen), narrowest, cost)


def find_activation(teacher: TorchGraph, name: str) -> Activate | None:
    """Return the activation function that alone reads a value of a graph; None where there is none."""
    value = next((one for node in teacher.model.graph for one in node.outputs if one.name == name), None)
    readers = [] if value is None else [node for node, _ in value.uses()]
    if value is None or value.is_graph_output() or not readers:
        return None
    last = readers[-1]
    if len(readers) == 1 and last.op_type in _ACTIVATIONS and last.inputs[0] is value:
        known = all(one is None or one.const_value is not None for one in last.inputs[1:])
    else:  # x * sigmoid(x)
        gates = [node for node in readers if node.op_type in ("Sigmoid", "HardSigmoid")]
        last = next((node for node in readers if node.op_type == "Mul"), last)
        pair = {value, gates[0].outputs[0]} if gates else set()
        known = len(readers) == 2 and last.op_type == "Mul" and set(last.inputs) == pair
    output = str(last.outputs[0].name)

    def activate(values: Tensor) -> Tensor:
        with torch.inference_mode():
            return teacher.run({name: values.float()}, [output])[output].double()

    return activate if known else None


def _same(values: Tensor) -> Tensor:
    return values


def _variance(histogram: Histogram, activate: Activate) -> float:
    """Sum of the squared deviations from the mean of all that was counted, behind its activation."""
    values, counts = activate(histogram.centres()), histogram.counts
    mean = (values @ counts) / counts.sum()
    return max(float((values - mean).square() @ counts), 1e-30)


def _squared_error(
    histogram: Histogram, number_format: NumberFormat, low: Tensor, high: Tensor, activate: Activate
) -> Tensor:
    """Sum of squared errors behind the activation for each candidate, (candidates,)."""
    _, values = quantized_centres(histogram, number_format, low, high)
    return (activate(values) - activate(histogram.centres())).square() @ histogram.counts


def _search(low: float, high: float, narrowest: float, cost: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Range of least cost, on a scale of ratios: one-sided values shrink one end, others each end on its own."""
    least = torch.tensor(narrowest, dtype=torch.float64).log()
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
