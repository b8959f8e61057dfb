"""Real inputs of the user's, few or many: read for a network, and asked what the network's preprocessing is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from zsq_compile.batchnorm.find_statistics import KnownStatistics
from zsq_compile.data.array_files import is_array, open_array
from zsq_compile.data.dataset import Dataset, load_data, take_arrays
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing, usual_preprocessings
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError
from zsq_compile.progress import Progress
from zsq_compile.synthesis.filters.examples import Examples
from zsq_compile.synthesis.images.variants import crop_pictures
from zsq_compile.synthesis.preprocessing.find import rank_on_examples
from zsq_compile.synthesis.preprocessing.trials import TRIAL_IMAGES

Given = Mapping[str, NDArray[Any]] | Path | Sequence[Path]
"""Arrays by input name, or places to read from."""

_MOST_TRIED = 64
_BEYOND = 0.01  # of the range of pixels
_GRAY, _CONTRAST = 0.45, 0.25  # mean and deviation of the pixels of photographs
_LEAST_CONTRAST = 0.04  # of pictures that show anything
_UNEVEN = 0.02  # of a step of 8 bits, from the nearest step
_MOST_SCALES = 16  # channels with a scale of their own
_SMALLEST_DEVIATION = 1e-6


def read_examples(
    like: Sequence[str],
    model: Path,
    inputs: Sequence[InputSpec],
    teacher: TorchGraph,
    known: KnownStatistics,
    given: Preprocessing | None,
    seed: int,
    progress: Progress,
) -> Examples:
    """Read what ``--like`` names, for a network of this file, and let it tell the preprocessing.

    Raises:
        ConfigError: it is nothing that the network takes.

    """
    data = load_data(list(map(Path, like)), inputs, given, option="--like", partly=True, words=(model.stem,))
    posteriors = settle(data, inputs, teacher, known, given, seed)
    tell(posteriors, len(data), progress)
    return Examples(data=data, posteriors=posteriors)


def shapes_like(like: Sequence[str], model: Path) -> dict[str, tuple[int | None, ...]]:
    """Sizes, by input, that arrays of examples have where the file leaves some open; pictures fit any.

    Empty where the file cannot be read, which is told by whoever loads it.
    """
    paths = [path for path in map(Path, like) if path.is_file() and is_array(path)]
    if not paths or not model.is_file():
        return {}
    try:
        graph = onnx.load(model, load_external_data=False).graph
    except Exception:  # the protobuf back ends raise different types
        return {}
    weights = {tensor.name for tensor in graph.initializer}
    declared = {
        value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
        if value.name not in weights
    }
    arrays = open_array(paths[0])
    if len(arrays) == len(declared) == 1:
        arrays = {next(iter(declared)): next(iter(arrays.values()))}
    found: dict[str, tuple[int | None, ...]] = {}
    for name, sizes in declared.items():
        shape = arrays[name].shape if name in arrays and arrays[name].dtype != np.uint8 else ()
        pairs = list(zip(sizes[1:], shape[1:], strict=False))
        if len(shape) == len(sizes) and None in sizes[1:] and all(own in (None, size) for own, size in pairs):
            found[name] = (None, *shape[1:])
    return found


def read_given(given: Given, model: Path, inputs: Sequence[InputSpec]) -> Dataset:
    """Read calibration data of the user's.

    Raises:
        ConfigError: they do not fit the network.

    """
    if isinstance(given, Mapping):
        return take_arrays(given, inputs, "calibration data")
    return load_data(given, inputs, None, option="--calib", words=(model.stem,))


def require_places(given: Given | None) -> None:
    """Raise ConfigError before the work where there is nothing at a place that is to be read."""
    places = [] if given is None or isinstance(given, Mapping) else [given] if isinstance(given, Path) else list(given)
    for place in places:
        if not place.exists():
            raise ConfigError(f"--calib wants a file or a folder, got {place}, which does not exist")


def settle(
    data: Dataset,
    inputs: Sequence[InputSpec],
    teacher: TorchGraph,
    known: KnownStatistics,
    given: Preprocessing | None,
    seed: int,
) -> dict[str, Posterior]:
    """Find the preprocessing, by input, that real inputs tell of; what they do not tell of is left out.

    Pictures are tried on the network under all preprocessings. What is network input already shows its scale itself.
    What the user gave is taken for images.
    """
    found: dict[str, Posterior] = {}
    for spec in (one for one in inputs if one.name in data.samples):
        if given is not None and given.fits(spec):
            found[spec.name] = Posterior.certain(replace(given, layout=spec.layout))
        elif data.preparation is not None and data.preparation.spec.name == spec.name:
            rng = torch.Generator().manual_seed(seed)
            few = data.first(_MOST_TRIED).pictures()
            samples = crop_pictures(few, spec, max(TRIAL_IMAGES, len(few)), rng)
            found[spec.name] = rank_on_examples(samples, spec, inputs, teacher, known.statistics, rng, len(few))
        elif spec.is_image:
            found[spec.name] = Posterior.certain(of_pictures(np.asarray(data.samples[spec.name]), spec))
        elif given is not None and given.layout is None and not spec.takes_stand_ins:
            found[spec.name] = Posterior.certain(given)
        elif not spec.takes_stand_ins:
            found[spec.name] = Posterior.certain(of_signals(np.asarray(data.samples[spec.name]), spec))
    return found


def of_pictures(values: NDArray[Any], spec: InputSpec) -> Preprocessing:
    """Find what pictures (N, ...) were prepared by, which are network input already.

    Of the usual preprocessings that make all of it pixels, the one under which all values are multiples of 1/255, and
    of several the one that leaves most contrast. Where none does, mean and deviation of every channel are fitted to
    those of photographs.
    """
    scored = []
    for one in usual_preprocessings(spec.channels, spec.layout or "NCHW"):
        pixels = one.decode(values.astype(np.float64))
        if pixels.min() >= -_BEYOND and pixels.max() <= 1.0 + _BEYOND and pixels.std() > _LEAST_CONTRAST:
            levels = 255.0 * pixels
            uneven = float(np.abs(levels - np.rint(levels)).mean())
            scored.append((uneven > _UNEVEN, -float(pixels.std()), one))
    reason = "the values of the examples"
    if scored:
        return replace(min(scored, key=lambda entry: entry[:2])[2], source="inferred", reason=reason)
    axes = tuple(axis for axis in range(4) if axis != (3 if spec.layout == "NHWC" else 1))
    std = _CONTRAST / np.maximum(values.std(axes, dtype=np.float64), _SMALLEST_DEVIATION)
    mean = _GRAY - values.mean(axes, dtype=np.float64) * std
    usual = usual_preprocessings(spec.channels, spec.layout or "NCHW")[0]
    return replace(usual, name="fitted", mean=_floats(mean), std=_floats(std), source="inferred", reason=reason)


def of_signals(values: NDArray[Any], spec: InputSpec) -> Preprocessing:
    """Take mean and deviation of every channel (N, C, ...) from signals; of all together where channels are many."""
    channels = values.ndim > 2 and values.shape[1] <= _MOST_SCALES
    axes = tuple(axis for axis in range(values.ndim) if axis != 1 or not channels)
    deviation = np.maximum(np.atleast_1d(values.std(axes, dtype=np.float64)), _SMALLEST_DEVIATION)
    middle = np.atleast_1d(values.mean(axes, dtype=np.float64))
    return Preprocessing(
        name="fitted",
        mean=_floats(-middle / deviation),
        std=_floats(1.0 / deviation),
        channel_order="none",
        source="inferred",
        reason="the values of the examples",
        layout=None,
        family="noise",
    )


def _floats(numbers: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(map(float, numbers))


def tell(posteriors: Mapping[str, Posterior], count: int, progress: Progress) -> None:
    """Say what ``count`` real inputs have told of each input; warn where it is open."""
    for name, posterior in posteriors.items():
        text = f"input {name!r}, from {count} real input{'s' if count > 1 else ''}: {posterior.best.describe()}"
        if posterior.is_open or not posterior.best.is_certain:
            progress.warn(f"{text}; give --mean and --std, or --input-range, if it is something else")
        else:
            progress.note(text)
