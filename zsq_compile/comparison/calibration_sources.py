"""Calibration data of onnxruntime's quantizer in a comparison: real data of the user, synthetic data, random numbers.

All sources give the same number of samples, as far as they have so many, in batches of one size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.comparison.result import DataSource
from zsq_compile.data.dataset import Dataset
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError
from zsq_compile.frontend.face import Face

Feeds = Mapping[str, NDArray[Any]]

_BATCH = 8
_MOST = 256
# onnxruntime holds all activations of all samples while it makes histograms, and goes over each number twice.
_HELD_BYTES = 1_500_000_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CalibrationSource:
    """Samples of one origin.

    Attributes:
        kind: their origin.
        batches: network inputs by name.
        description: how many they are and where they come from.

    """

    kind: DataSource
    batches: Sequence[Feeds]
    description: str


def calibration_count(sample_bytes: int, wanted: int | None) -> int:
    """Count samples to calibrate onnxruntime on: ``wanted``, else 256, fewer of a network with large activations.

    Args:
        sample_bytes: bytes of all activations of one sample.
        wanted: as the user asked for, if at all.

    """
    return wanted if wanted is not None else max(min(_MOST, _HELD_BYTES // max(sample_bytes, 1)), 1)


def synthetic_source(samples: Feeds, inputs: Sequence[InputSpec], face: Face, count: int) -> CalibrationSource:
    """Return our synthetic samples, (count, ...) by input name.

    Raises:
        ConfigError: they do not fill a batch of the model.

    """
    available = min(len(array) for array in samples.values())
    size, used = _batching(face, min(count, available), "synthetic")
    parts = [
        {spec.name: samples[spec.name][start : start + size].astype(spec.dtype, copy=False) for spec in inputs}
        for start in range(0, used, size)
    ]
    batches = list(map(face.axes.to_file, parts))
    return CalibrationSource(kind="synthetic", batches=batches, description=_of(used, available, "synthetic samples"))


def real_source(data: Dataset, place: Path, face: Face, count: int) -> CalibrationSource:
    """Return samples of the user.

    Raises:
        ConfigError: they do not fill a batch of the model.

    """
    size, used = _batching(face, min(count, len(data)), str(place))
    parts = zip(range(used // size), data.batches(size), strict=False)
    batches = [face.axes.to_file(feeds) for _, (feeds, _) in parts]
    return CalibrationSource(kind="real", batches=batches, description=_of(used, len(data), f"samples of {place}"))


def random_source(inputs: Sequence[InputSpec], face: Face, count: int, seed: int) -> CalibrationSource:
    """Return uniform numbers in [0, 1), and integers 0 and 1, as tools use without data."""
    size, used = _batching(face, max(count, face.fixed_batch or 1), "random")
    rng = np.random.default_rng(seed)
    parts = [{spec.name: _random(spec, size, rng) for spec in inputs} for _ in range(used // size)]
    batches = list(map(face.axes.to_file, parts))
    return CalibrationSource(kind="random", batches=batches, description=f"{used} samples of uniform noise in [0, 1)")


def _batching(face: Face, count: int, what: str) -> tuple[int, int]:
    """Size of a batch, and how many samples whole batches take."""
    size = face.fixed_batch or min(_BATCH, count)
    if count < size:
        raise ConfigError(f"the model takes {size} samples at a time, but {what} data of {count} are there")
    return size, count // size * size


def _of(used: int, available: int, what: str) -> str:
    return f"{used} {what}" if used == available else f"{used} of {available} {what}"


def _random(spec: InputSpec, count: int, rng: np.random.Generator) -> NDArray[Any]:
    shape = spec.batched(count)
    if np.issubdtype(spec.dtype, np.floating):
        return rng.random(shape).astype(spec.dtype)
    return rng.integers(0, 2, shape).astype(spec.dtype)
