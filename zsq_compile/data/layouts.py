"""Arrays of the user's in the form of an input: (count, ...), in its order of axes, in its element type."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.batch_axes import stack_given
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError

Arrays = Mapping[str, NDArray[Any]]

_GIVEN_ONCE = ("state", "mask", "length", "rate", "size", "scale", "types", "positions")
"""Kinds of inputs of which one value may hold for several samples that follow each other."""

_USUAL = ("rate", "size", "scale")


def arrange_samples(given: Arrays, inputs: Sequence[InputSpec], what: str) -> dict[str, NDArray[Any]]:
    """Bring arrays by input name into the form (count, ...), as many samples of each.

    What ``can_be_left_out`` may be. One sample of an input stands for all, and a few states, masks, lengths or rates
    each for as many samples that follow each other. Axes are brought into the input's order where that is the only one
    that fits.

    Args:
        given: arrays; names that are no inputs are left out.
        inputs: of the network.
        what: the arrays are, for messages.

    Raises:
        ConfigError: an array is missing, or does not fit.

    """
    filled = {**given, **{spec.name: value for spec, value in _stand_ins(inputs, given)}}
    present = {name: np.asarray(array) for name, array in filled.items()}
    ordered = {
        spec.name: arrange(present[spec.name], spec) if spec.batch_axis == 0 else present[spec.name]
        for spec in inputs
        if spec.name in present
    }
    stacked = stack_given(ordered if len(ordered) == len(inputs) else filled, inputs, what)
    for spec in inputs:
        _require_shape(stacked[spec.name], spec, what)
    count = max(map(len, stacked.values()), default=0)
    return {spec.name: _repeated(stacked[spec.name], count, spec, what) for spec in inputs}


def can_be_left_out(spec: InputSpec) -> bool:
    """Whether samples need no array for an input: a state starts at zero, and a mask hides nothing."""
    if spec.kind in _USUAL:
        return spec.usual is not None
    return spec.kind in ("state", "types", "positions") or (spec.kind == "mask" and spec.neutral is not None)


def arrange(array: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """Bring one array into the form (count, ...) of an input with its batch on axis 0; as it is where nothing fits.

    Accepted are one sample without a batch, samples with a batch of 1 each, and another order of the axes behind the
    samples' where no other order fits.
    """
    wanted = spec.shape[1:]
    if array.ndim == len(wanted) + 2:
        inner = 1 if array.shape[1] == 1 else 0 if array.shape[0] == 1 else None
        if inner is not None:
            return arrange(np.squeeze(array, inner), spec)
    if array.ndim == len(wanted) + 1:
        if _fits(array.shape[1:], wanted):
            return array
        orders = [order for order in _orders(spec) if _fits(tuple(array.shape[axis] for axis in order), wanted)]
        return array.transpose(0, *orders[0]) if len(orders) == 1 else array
    if array.ndim == len(wanted) and wanted:
        one = arrange(array[None], spec)
        return one if _fits(one.shape[1:], wanted) else array
    return array


def _orders(spec: InputSpec) -> Iterator[tuple[int, ...]]:
    """Yield orders of the axes behind the samples' that an array may have been given in."""
    rank = len(spec.shape) - 1
    if spec.is_image:
        yield (2, 3, 1) if spec.layout == "NHWC" else (3, 1, 2)
    elif rank <= 3:
        yield from (tuple(axis + 1 for axis in order) for order in permutations(range(rank)))


def has_shape(array: NDArray[Any], spec: InputSpec) -> bool:
    """Whether an array holds samples of an input, (count, ...)."""
    return array.ndim > 0 and _fits(array.shape[1:], spec.shape[1:])


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    if len(shape) != len(wanted):
        return False
    return all(own is None or own == size for own, size in zip(wanted, shape, strict=True))


def _stand_ins(inputs: Sequence[InputSpec], given: Arrays) -> Iterator[tuple[InputSpec, NDArray[Any]]]:
    for spec in inputs:
        if spec.name not in given and can_be_left_out(spec):
            yield spec, _stand_in(spec)


def _stand_in(spec: InputSpec) -> NDArray[Any]:
    """Make the one sample that every user would give."""
    shape = spec.batched(1)
    if spec.kind in _USUAL:
        return np.resize(np.asarray(spec.usual), shape).astype(spec.dtype)
    if spec.kind == "positions":
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(spec.dtype)
    return np.full(shape, spec.neutral if spec.kind == "mask" else 0, spec.dtype)


def _require_shape(array: NDArray[Any], spec: InputSpec, what: str) -> None:
    if has_shape(array, spec):
        return
    inner = ", ".join("any" if size is None else str(size) for size in spec.shape[1:])
    raise ConfigError(
        f"{what}: {spec.name} must have shape ({'N' if spec.batch_axis == 0 else 'samples'}, {inner}), got "
        f"{array.shape}; N is the number of samples, and another order of axes is taken where only one fits"
    )


def _repeated(array: NDArray[Any], count: int, spec: InputSpec, what: str) -> NDArray[Any]:
    if len(array) == count:
        return array
    if len(array) and count % len(array) == 0 and (len(array) == 1 or spec.kind in _GIVEN_ONCE):
        return np.repeat(array, count // len(array), axis=0)
    raise ConfigError(
        f"{what} has {len(array)} samples for {spec.name!r}, and {count} for another input: give as many of both, or "
        "one that stands for all"
    )


def convert(array: NDArray[Any], spec: InputSpec, source: str) -> NDArray[Any]:
    """Change the element type where every value survives it; floats may be rounded.

    Raises:
        ConfigError: a value would not survive, or is none of an input.

    """
    what = f"{source}: {spec.name!r} wants {spec.dtype.name}"
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{what}, got {array.dtype.name}")
    with np.errstate(invalid="ignore", over="ignore"):
        converted = np.ascontiguousarray(array, dtype=spec.dtype)
    if np.issubdtype(spec.dtype, np.floating):
        lost = np.isnan(array) | (np.isfinite(array) & ~np.isfinite(converted))
    else:
        lost = converted != array
    if lost.any():
        raise ConfigError(f"{what}, got {array.dtype.name} values that it does not hold, such as {array[lost][0]}")
    return converted
