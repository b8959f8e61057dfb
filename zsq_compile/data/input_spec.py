"""Name, shape and element type of each graph input."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """One graph input.

    Attributes:
        name: of the input.
        shape: has an int for every axis but an open batch, which is None. Once a model is loaded, samples are stacked
            on axis 0, wherever the file has its batch.
        dtype: of its elements.
        batch_axis: axis that samples are stacked on in the file; None for an input without a batch, which every run
            gets whole.

    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[np.generic]
    batch_axis: int | None = 0

    @property
    def is_image(self) -> bool:
        """True for float NCHW inputs with 1 or 3 channels."""
        is_batched = len(self.shape) == 4 and self.batch_axis == 0
        return is_batched and self.shape[1] in (1, 3) and np.issubdtype(self.dtype, np.floating)

    def batched(self, count: int) -> tuple[int, ...]:
        """Shape of ``count`` samples; a model with a fixed batch takes them ``shape[0]`` at a time."""
        return (count, *(int(size or 1) for size in self.shape[1:]))


def fixed_batch(inputs: Sequence[InputSpec]) -> int | None:
    """Return the fixed batch size of the model, or None."""
    return next((spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] is not None), None)
