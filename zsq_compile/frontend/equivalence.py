"""Numerical equivalence check of rewritten models, in ONNX Runtime on random inputs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from backends.session import Session, open_session
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.metrics import decibels, powers

TOLERANCE = 1e-3
"""Largest difference, relative to the output's largest magnitude, between models that count as equal."""

_MOST_DOUBT = 1e-2  # differences that the last bits of the inputs excuse
_DRAWS = 3
_BATCHES = (2, 3)
"""Open batches of the two inputs; two, because a graph that was traced with one of them runs with no other."""


class Reference:
    """Outputs of a model on two random batches, 2 standard normal samples and 3 uniform from 0 to 255.

    ``others`` are inputs with other sizes, at which it is run on normal samples too, and may differ by
    1e-2. The constructor and the methods raise RuntimeModelError where the runtime cannot load or run a model.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        inputs: Sequence[InputSpec],
        *,
        others: Sequence[Sequence[InputSpec]] = (),
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        chosen = [(inputs, False), (inputs, True), *((other, False) for other in others)]
        self._feeds = [{spec.name: random_input(spec, rng, wide=wide) for spec in specs} for specs, wide in chosen]
        session = open_session(model, lean=True)
        self._outputs = [session.run(feed) for feed in self._feeds]
        pairs = list(zip(self._outputs, self._feeds, strict=True))[:2]
        # a constant that depends on the size is off by per cents at another one, so rounding there needs no measure
        self._doubts = [min(2.0 * _effect_of_last_bits(session, *pair, rng), _MOST_DOUBT) for pair in pairs]
        self._doubts += [_MOST_DOUBT] * len(others)

    def has_leading(self, size: int) -> bool:
        """Whether axis 0 of an output has this size."""
        return any(array.shape[:1] == (size,) for array in self._outputs[0].values())

    def difference(self, model: onnx.ModelProto) -> float:
        """Largest difference of any output, relative to its largest magnitude; infinite if shapes or NaNs differ.

        What the last bits of the inputs decide does not count: up to twice of what they change, and 1e-2 at most.
        Integer outputs count as equal where at most 1 % of their elements differ: rounding decides near ties of ArgMax.
        """
        pairs = zip(self._outputs, self._run(model, list(self._outputs[0])), strict=True)
        found = [_largest_difference(one, other) for one, other in pairs]
        return max((one for one, doubt in zip(found, self._doubts, strict=True) if one > doubt), default=0.0)

    def sqnr(self, quantized: onnx.ModelProto) -> float:
        """SQNR in dB of a quantized model against this one: that of its worst output, on the better batch.

        The better batch, because one of them may lie outside the range that the scales were chosen for. Outputs of 8
        and 16-bit integers are centred first; wider integers (indices) and all-zero outputs are ignored. Infinite where
        all outputs are ignored or equal.
        """
        ratios = []
        for one, other in zip(self._run(quantized, list(self._outputs[0])), self._outputs, strict=True):
            found = [ratio for name in one if (ratio := _sqnr(one[name], other[name])) is not None]
            ratios += [min(found)] if found else []
        return max(ratios, default=math.inf)

    def _run(self, model: onnx.ModelProto, names: list[str]) -> list[dict[str, NDArray[Any]]]:
        session = open_session(model, lean=True)
        return [session.run(feed, names) for feed in self._feeds]


def random_input(spec: InputSpec, rng: np.random.Generator, *, wide: bool) -> NDArray[Any]:
    """Draw an array for an input, two samples in an open batch; ``wide``: three, uniform from 0 to 255, not normal."""
    shape = tuple(_BATCHES[wide] if size is None else size for size in spec.shape)
    if np.issubdtype(spec.dtype, np.floating):
        numbers = rng.uniform(0.0, 255.0, shape) if wide else rng.standard_normal(shape)
        return numbers.astype(spec.dtype)
    if spec.dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if spec.dtype.itemsize == 1:
        return rng.integers(0, 128, shape).astype(spec.dtype)  # pixels
    return np.full(shape, int(wide), spec.dtype)  # indices or lengths: small ones are valid almost everywhere


def _effect_of_last_bits(
    session: Session, outputs: Mapping[str, NDArray[Any]], feed: Mapping[str, NDArray[Any]], rng: np.random.Generator
) -> float:
    """Largest difference that the last bits of the inputs make, in a few draws."""
    return max(_largest_difference(outputs, session.run(_last_bits(feed, rng))) for _ in range(_DRAWS))


def _last_bits(feed: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Move every float of the inputs to one of its two neighbours."""
    return {
        name: np.nextafter(array, rng.choice([-np.inf, np.inf], array.shape).astype(array.dtype))
        if np.issubdtype(array.dtype, np.floating)
        else array
        for name, array in feed.items()
    }


def _largest_difference(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> float:
    return max((difference(array, other[name]) for name, array in one.items()), default=0.0)


def difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Largest difference of two outputs relative to the first one's magnitude; see ``Reference.difference``."""
    if one.shape != other.shape:
        return float("inf")
    if not np.issubdtype(one.dtype, np.floating):
        return 0.0 if one.size == 0 or np.mean(one != other) <= 0.01 else float("inf")
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True) or not np.isfinite(other[finite]).all():
        return float("inf")
    left, right = one[finite].astype(np.float64), other[finite].astype(np.float64)
    scale = max(float(np.abs(left).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    return float(np.abs(left - right).max(initial=0.0)) / scale


def _sqnr(one: NDArray[Any], other: NDArray[Any]) -> float | None:
    if one.shape != other.shape:
        return -math.inf
    floats = np.issubdtype(one.dtype, np.floating)
    if not floats and one.dtype.itemsize > 2:
        return None
    finite = np.isfinite(one)
    if not np.isfinite(other[finite]).all():
        return -math.inf
    signal, wanted = one[finite].astype(np.float64), other[finite].astype(np.float64)
    mean = 0.0 if floats else signal.mean()
    power, noise = powers(signal - mean, wanted - mean)
    return None if power == 0.0 else decibels(power, noise)
