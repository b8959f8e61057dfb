"""Stand-ins for inputs whose numbers have a meaning of their own: ids, masks, lengths, states, rates, sizes.

They are valid, agree with each other and make no value that is no number; what a user's data mean they do not know. A
quarter of the samples is shorter than the full length: ids, masks and lengths of one sample end at the same place,
because that place follows from the number of the sample alone. NumPy only, so that an inspection needs no torch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.input_spec import FAITHFUL, InputSpec
from zsq_compile.progress import Progress
from zsq_compile.synthesis.images.natural_images import one_over_f

_FULL = 4  # one sample in so many is shorter
_SHORTEST = 0.25
_GOLDEN = 0.6180339887498949  # multiples of it are spread evenly
_ZIPF = 2.7  # Mandelbrot's offset of the rank, as in texts
_UNIFORM = 4  # one id in so many is drawn evenly from the whole table, so that rare rows are seen too
_LOUD = 3000.0  # deviation of speech in 16 bits

_WORDS = {
    "tokens": "ids drawn from its table as often as words are used",
    "types": "ids of one type, 0",
    "positions": "positions counted from 0",
    "mask": "masks that hide nothing, but the end of every fourth sample",
    "length": "full lengths, but for every fourth sample",
    "state": "zeros, as at the start",
    "rate": "the usual rate",
    "size": "the size of the picture",
    "scale": "1",
}


def draw_stand_ins(spec: InputSpec, count: int, rng: np.random.Generator) -> NDArray[np.generic]:
    """Draw ``count`` samples of an input that takes stand-ins, in its own element type."""
    shape = spec.batched(count)
    match spec.kind:
        case "tokens":
            values = _ids(spec, shape, rng)
        case "positions":
            steps = np.arange(shape[-1] if len(shape) > 1 else 1) % max(spec.limit or shape[-1], 1)
            values = np.broadcast_to(steps, shape)
        case "mask":
            values = _masks(spec, shape, rng)
        case "length":
            values = _lengths(spec, shape)
        case "rate" | "size" | "scale":
            values = _repeat(spec.usual or (1.0,), shape)
        case "state" | "types":
            values = np.zeros(shape)
        case "waveform":
            values = _LOUD * one_over_f((*shape[:-1], 1, shape[-1]), rng).reshape(shape)
        case _:
            values = np.abs(np.rint(1.5 * rng.standard_normal(shape)))
    made: NDArray[np.generic] = spec.typed(np.asarray(values)).astype(spec.dtype)
    return made


def visible_shares(count: int) -> NDArray[np.float64]:
    """Share of every sample, by its number, that is data and no padding: (count,) in (0, 1], of three in four 1."""
    numbers = np.arange(count)
    shorter = _SHORTEST + (1.0 - _SHORTEST) * (numbers * _GOLDEN % 1.0)
    return np.where(numbers % _FULL == _FULL - 1, shorter, 1.0)


def warn_of_stand_ins(inputs: Sequence[InputSpec], progress: Progress) -> None:
    """Say what is fed where values have a meaning of their own, loudly where it is not what a user would give."""
    listed = [(spec, _WORDS.get(spec.kind, "small whole numbers")) for spec in inputs if spec.takes_stand_ins]
    for spec, words in listed:
        if spec.kind in FAITHFUL:
            progress.note(f"input {spec.name!r} takes a {spec.kind} ({spec.reason}), and is fed {words}")
    doubtful = [f"{spec.name!r} ({spec.kind}: {words})" for spec, words in listed if spec.kind not in FAITHFUL]
    if doubtful:
        progress.warn(
            f"stand-ins are fed to {', '.join(doubtful)}: they are valid and mean nothing, so figures on them say "
            "little of real samples; give some with --calib FILE.npz"
        )


def _ids(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Ids by the law of Zipf and Mandelbrot, as tables are sorted by frequency as a rule; padded at the end."""
    rows = max(spec.limit or 2, 1)
    draw = rng.random(shape)
    ranks = np.floor(_ZIPF * ((rows + _ZIPF) / _ZIPF) ** draw - _ZIPF)
    even = np.floor(rng.random(shape) * rows)
    ids = np.minimum(np.where(rng.integers(0, _UNIFORM, shape) == 0, even, ranks), rows - 1)
    padding = min(spec.neutral or 0.0, rows - 1)
    return np.where(_visible(shape), np.maximum(ids, 0.0), padding)


def _lengths(spec: InputSpec, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if spec.usual is not None:  # as a share of the longest
        return _repeat(spec.usual, shape)
    ends = np.maximum(np.ceil((spec.limit or 1) * visible_shares(shape[0])), 1.0)
    return np.broadcast_to(_column(ends, shape), shape)


def _masks(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    if spec.neutral is None:
        return _regions(shape, rng)
    # what is added to scores hides by a large negative number, and how large it is nobody says: hide nothing then
    added = spec.neutral == 0.0 and np.issubdtype(spec.dtype, np.floating)
    hidden = spec.neutral if added else 1.0 - spec.neutral
    return np.where(_visible(shape), spec.neutral, hidden)


def _visible(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Truth values: which places along the last axis are before the end of their sample; the first always is."""
    if len(shape) < 2:
        return np.ones(shape, bool)
    ends = np.maximum(np.ceil(shape[-1] * visible_shares(shape[0])), 1.0)
    return np.broadcast_to(np.arange(shape[-1]) < _column(ends, shape), shape)


def _regions(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Masks of pictures: a rectangle of ones in zeros."""
    made = np.zeros(shape)
    for one in made:
        corners = np.sort(rng.random((2, 2)), axis=0) * one.shape[-2:]
        (top, left), (bottom, right) = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int)
        one[..., top:bottom, left:right] = 1.0
    return made


def _column(numbers: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    return numbers.reshape(-1, *(1,) * (len(shape) - 1))


def _repeat(numbers: Sequence[float], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Put the same numbers into every sample, as many times as they fit."""
    return np.resize(np.asarray(numbers, np.float64), shape)
