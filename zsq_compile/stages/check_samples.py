"""Look at samples of the user's for what the network cannot mean: scales that it does not know, masks of nothing."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from zsq_compile.batchnorm.find_statistics import KnownStatistics
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Progress, Silent
from zsq_compile.synthesis.images.procedural import draw_samples
from zsq_compile.synthesis.preprocessing.find import find_preprocessing

_MOST = 256  # samples that are looked at
_MOST_NUMBERS = 1 << 20  # that a range is taken from: two quantiles of more are the same
_ENDS = (0.01, 0.99)  # shares of the values between which a range is taken
_WIDER, _NARROWER = 4.0, 8.0  # times; contrast differs between data sets, and one scale from another by more
_APART = 2.0  # widths of the expected range between the middles
_DRAWN = 64

Samples = Mapping[str, NDArray[np.generic]]


def warn_of_samples(
    samples: Samples,
    inputs: Sequence[InputSpec],
    expected: Mapping[str, Preprocessing],
    source: str,
    progress: Progress,
) -> None:
    """Warn of values that lie far from what is expected, and of masks and lengths that leave nothing.

    Args:
        samples: (count, ...) by input, as the network takes them.
        inputs: of the network.
        expected: preprocessing by input, where it is certain (see ``expect_signals``); others are not held against.
        source: what the samples are called.
        progress: receives the warnings.

    """
    for spec in inputs:
        values = np.asarray(samples[spec.name][:_MOST])
        if not values.size:
            continue
        one = expected.get(spec.name)
        if one is not None and one.is_certain:
            wanted = _range(_expected_values(spec, one))
            if not _is_near(_range(values), wanted):
                low, high = _range(values)
                progress.warn(
                    f"{source}: {spec.name!r} goes from {low:.4g} to {high:.4g}, and the network was trained on about "
                    f"{wanted[0]:.4g} to {wanted[1]:.4g} ({one.describe()}): are the samples prepared as in training?"
                )
        for fault in _faults(spec, values):
            progress.warn(f"{source}: {spec.name!r} {fault}")


def expect_signals(
    teacher: TorchGraph, known: KnownStatistics, inputs: Sequence[InputSpec], seed: int
) -> dict[str, Preprocessing]:
    """Scales, by input, that batch normalisation tells of a network that takes no pictures; empty for any other."""
    if not known.statistics.usable or any(spec.is_image for spec in inputs):
        return {}
    rng = torch.Generator().manual_seed(seed)
    found = find_preprocessing(inputs, None, teacher, known.statistics, rng, Silent())
    return {name: posterior.best for name, posterior in found.items() if not posterior.is_open}


def _expected_values(spec: InputSpec, one: Preprocessing) -> NDArray[np.generic]:
    if spec.is_image:
        ends = np.broadcast_to(np.array([0.0, 1.0])[:, None, None, None], (2, spec.channels, 1, 1))
        return np.asarray(one.encode(ends))
    drawn = draw_samples(spec, int(spec.shape[0] or _DRAWN), torch.Generator().manual_seed(0), one)
    return np.asarray(one.encode(drawn.numpy()))


def _range(values: NDArray[np.generic]) -> tuple[float, float]:
    flat = values.reshape(-1)
    seen = flat[:: 1 + 6 * (flat.size // (6 * _MOST_NUMBERS))]  # no multiple of 2 or 3: it meets every channel
    finite = seen[np.isfinite(seen)].astype(np.float64)
    low, high = np.quantile(finite, _ENDS) if finite.size else (0.0, 0.0)
    return float(low), float(high)


def _is_near(found: tuple[float, float], wanted: tuple[float, float]) -> bool:
    width, usual = found[1] - found[0], max(wanted[1] - wanted[0], 1e-12)
    apart = abs(sum(found) - sum(wanted)) / 2.0
    return usual / _NARROWER <= width <= usual * _WIDER and apart <= _APART * usual


def _faults(spec: InputSpec, values: NDArray[np.generic]) -> Iterator[str]:
    """Say in words what makes no sense in values of a kind."""
    if spec.kind == "mask" and spec.neutral is not None and values.ndim > 1:
        added = spec.neutral == 0.0 and np.issubdtype(spec.dtype, np.floating)
        hidden = ~(values == spec.neutral).any(-1)
        if not added and hidden.any():
            yield (
                f"hides everything in sample {int(np.argwhere(hidden)[0][0])}: {spec.neutral:g} is what hides nothing, "
                "and what is left of attention may be no number"
            )
    if spec.kind == "length" and spec.limit is not None:
        lengths = values.astype(np.float64).reshape(-1)
        wrong = lengths[(lengths < 1) | (lengths > spec.limit)]
        if wrong.size:
            yield f"holds {wrong[0]:g}, and a length is wanted from 1 to {spec.limit}"
    if spec.kind == "rate" and spec.usual is not None and (values != spec.usual[0]).any():
        yield f"holds {np.unique(values)[0]:g}, and the graph compares it with {spec.usual[0]:g}"
