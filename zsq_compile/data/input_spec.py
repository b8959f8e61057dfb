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
    "types",
    "positions",
    "mask",
    "length",
    "state",
    "rate",
    "size",
    "scale",
    "unknown",
]
"""What an input takes: "features" are sequences of vectors or maps of no picture, "table" a row of numbers, "types" and
"positions" ids of token types and of positions, "rate" a sampling rate, "size" height and width of a picture, and
"scale" the factor that it was resized by."""

STAND_INS: frozenset[InputKind] = frozenset(
    {"tokens", "types", "positions", "mask", "length", "state", "rate", "size", "scale"}
)
"""Kinds whose values have a meaning of their own: nothing scales them, and nothing optimises them."""

FAITHFUL: frozenset[InputKind] = frozenset({"types", "positions", "state", "rate", "size", "scale"})
"""Those of them whose stand-ins are what a user would give: zeros of a first run, the size of the picture."""

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
        neutral: of a mask, the number that hides nothing; of token ids, the one that fills up; else None.
        usual: numbers that every sample has: a sampling rate, a size, a scale; None where samples differ.
        limit: of ids, the rows of the smallest table that they are looked up in; of a length, the full one; of
            waveforms, spectrograms and sequences of vectors, their steps; else None.
        kind: what it takes.
        reason: why it is taken for that kind, in words.

    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[np.generic]
    batch_axis: int | None = 0
    layout: Layout | None = None
    neutral: float | None = None
    limit: int | None = None
    usual: tuple[float, ...] | None = None
    kind: InputKind = "unknown"
    reason: str = ""

    @property
    def is_image(self) -> bool:
        """Whether it takes pictures."""
        return self.layout is not None

    @property
    def takes_stand_ins(self) -> bool:
        """Whether its values have a meaning of their own (see ``STAND_INS``), or are whole numbers and no pixels."""
        return self.kind in STAND_INS or not (self.is_image or np.issubdtype(self.dtype, np.floating))

    @property
    def can_be_made(self) -> bool:
        """Whether there are synthetic values for it: for anything but texts and complex numbers."""
        return bool(np.issubdtype(self.dtype, np.floating) or self.dtype.kind in "iub")

    @property
    def steps(self) -> int | None:
        """How many ids, samples, frames or vectors follow each other; None of what is no sequence."""
        if self.kind == "tokens" and len(self.shape) > 1:
            return int(self.shape[-1] or 1)
        return self.limit if self.kind in ("waveform", "spectrogram", "features") else None

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


def main_input(inputs: Sequence[InputSpec]) -> InputSpec | None:
    """Return the first input that takes pictures, else the first that takes signals; None where there is neither."""
    data = [spec for spec in inputs if not spec.takes_stand_ins]
    return next((spec for spec in data if spec.is_image), data[0] if data else None)


def fixed_batch(inputs: Sequence[InputSpec]) -> int | None:
    """Return the fixed batch size of the model, or None."""
    return next((spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] is not None), None)
