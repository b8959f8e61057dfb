"""Where a file has its batch. Samples inside have it on axis 0; what is fed to a file and comes from it may not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchAxes:
    """Axes of the batch in a file, by name of the input and of the output; those that are not named have it on axis 0.

    None stands for an input without a batch: a run takes the first sample's for all. With ``alone`` samples are run one
    by one though the batch is open, because the graph decides for a batch as a whole.
    """

    inputs: Mapping[str, int | None] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=dict)
    alone: bool = False

    def to_file(self, samples: Arrays) -> dict[str, NDArray[Any]]:
        """Bring the samples (count, ...) of one run into the form that the file takes."""
        return {name: self._one_to_file(name, array) for name, array in samples.items()}

    def _one_to_file(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        axis = self.inputs.get(name, 0)
        if axis == 0:
            return array
        return np.asarray(array[0] if axis is None else np.moveaxis(array, 0, axis), order="C")

    def from_file(self, outputs: Arrays) -> dict[str, NDArray[Any]]:
        """Bring the outputs of a run into the form that samples have inside, (count, ...)."""
        axes = {name: self.outputs.get(name, 0) for name in outputs}
        return {name: np.moveaxis(array, axes[name], 0) if axes[name] else array for name, array in outputs.items()}

    def size(self, name: str, shape: Sequence[int | None]) -> int | None:
        """Size of the batch that an input of this shape is to be run with; None where it is open, or there is none."""
        axis = self.inputs.get(name, 0)
        if axis is None or axis >= len(shape):
            return None
        return 1 if self.alone and shape[axis] is None else shape[axis]


FIRST = BatchAxes()
"""Everything has its batch on axis 0."""


def stack_given(arrays: Arrays, inputs: Sequence[InputSpec], what: str) -> dict[str, NDArray[Any]]:
    """Bring arrays that the user gives for the inputs into the form (count, ...).

    An input with its batch on another axis is given as the file takes it, with as many samples along that axis as there
    are, or one that holds for all; or as (count, *shape in the file). One without a batch is given as the file takes
    it, for all samples, or several of them one after the other, along an axis of their own or along axis 0. Fewer of
    these than samples are repeated, each for as many samples that follow each other.

    Args:
        arrays: by name; names that are no inputs are left out.
        inputs: of the network.
        what: the arrays are, for messages.

    Raises:
        ConfigError: an array is missing, or has another rank.

    """
    found: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        if spec.name not in arrays:
            raise ConfigError(f"{what} has no array for the input {spec.name!r}, only {', '.join(arrays) or 'none'}")
        found[spec.name] = _stack(np.asarray(arrays[spec.name]), spec, what)
    count = max((len(array) for array in found.values() if array.ndim), default=0)
    moved = {spec.name for spec in inputs if spec.batch_axis != 0}
    return {
        name: np.repeat(array, count // len(array), axis=0)
        if name in moved and len(array) and count % len(array) == 0
        else array
        for name, array in found.items()
    }


def _stack(array: NDArray[Any], spec: InputSpec, what: str) -> NDArray[Any]:
    axis = spec.batch_axis
    if axis == 0:
        return array
    rank = len(spec.shape) - (axis is None)  # in the file
    if array.ndim == rank and axis is None:
        return array.reshape(-1, *spec.batched(1)[1:]) if array.shape[1:] == spec.shape[2:] else array[None]
    if array.ndim == rank and axis is not None:
        return np.moveaxis(array, axis, 0)
    if array.ndim == rank + 1 and (axis is None or array.shape[axis + 1] == 1):
        return array if axis is None else np.squeeze(array, axis + 1)
    inner = ", ".join(map(str, spec.shape[1:]))
    wanted = "without a batch" if axis is None else f"with its batch on axis {axis}"
    raise ConfigError(f"{what} for {spec.name!r}, an input {wanted} and ({inner}) beside it, is {array.shape}")
