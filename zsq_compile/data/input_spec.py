"""Name, shape, element type and picture layout of each graph input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["NCHW", "NHWC"]
InputKind = Literal[
    "picture",
    "waveform",
    "spectrogram",
    "features",
    "table",
    "tokens",
    "mask",
    "length",
    "state",
    "rate",
    "unknown",
]
"""What an input takes; "features" are sequences of vectors, "rate" is a sampling rate."""

PICTURE_CHANNELS = (1, 3, 4)
"""Gray, colour, and colour with a fourth plane (transparency, infrared)."""


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
        layout: of a picture; None for anything else.
        neutral: of a mask of attention, the number that hides nothing; None for anything else.
        kind: what it takes.
        reason: why it is taken for that kind, in words.

    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[np.generic]
    batch_axis: int | None = 0
    layout: Layout | None = None
    neutral: float | None = None
    kind: InputKind = "unknown"
    reason: str = ""

    @property
    def is_image(self) -> bool:
        """Whether it takes pictures."""
        return self.layout is not None

    @property
    def can_be_made(self) -> bool:
        """Whether there are synthetic values for it: pictures, and signals as floats."""
        return self.is_image or np.issubdtype(self.dtype, np.floating)

    @property
    def spatial_axes(self) -> tuple[int, int]:
        """Axes of height and width of a picture."""
        return (1, 2) if self.layout == "NHWC" else (2, 3)

    @property
    def channels(self) -> int:
        """Channels of a picture."""
        return int(self.shape[3 if self.layout == "NHWC" else 1] or 1)

    @property
    def height(self) -> int:
        """Rows of a picture."""
        return int(self.shape[self.spatial_axes[0]] or 1)

    @property
    def width(self) -> int:
        """Columns of a picture."""
        return int(self.shape[self.spatial_axes[1]] or 1)

    def batched(self, count: int) -> tuple[int, ...]:
        """Shape of ``count`` samples; a model with a fixed batch takes them ``shape[0]`` at a time."""
        return (count, *(int(size or 1) for size in self.shape[1:]))

    def pictures(self, count: int) -> tuple[int, int, int, int]:
        """Shape of the pixels of ``count`` pictures before they are encoded, channels first whatever the layout."""
        return count, self.channels, self.height, self.width

    def typed(self, values: NDArray[Any]) -> NDArray[Any]:
        """Convert values to the input's type; an integer type gets the nearest one that it holds."""
        if not np.issubdtype(self.dtype, np.integer):
            return values.astype(self.dtype, copy=False)
        limits = np.iinfo(self.dtype.name)
        nearest: NDArray[Any] = np.clip(np.rint(values), limits.min, limits.max).astype(self.dtype)
        return nearest


def fixed_batch(inputs: Sequence[InputSpec]) -> int | None:
    """Return the fixed batch size of the model, or None."""
    return next((spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] is not None), None)
