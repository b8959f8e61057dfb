"""What is true of a sample, as labels say it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TruthKind = Literal["classes", "boxes", "masks", "texts"]
"""What labels hold: a class of each sample, boxes with classes, a class of each pixel, or a text."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BoxTruth:
    """True boxes of one picture.

    Attributes:
        corners: (n, 4) x1, y1, x2, y2 in pixels of the network's input.
        classes: (n,) from 0.
        ignored: (n,) boxes that may be found or not: crowds, and those that are mostly outside of what is seen.

    """

    corners: NDArray[np.float64]
    classes: NDArray[np.int64]
    ignored: NDArray[np.bool_]


Truth = int | BoxTruth | NDArray[np.int64] | str | tuple[int, ...]
"""What is true of one sample: its class, its boxes, a class of each pixel (rows, columns; -1 is not judged), its text,
or the classes of the text's characters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledFigure:
    """How well one network does on labelled samples.

    Attributes:
        measure: such as "mAP at IoU 0.50 to 0.95".
        value: 0 to 1; of error rates 0 and more. None where there is nothing to be measured.
        count: samples.
        higher_is_better: whether a larger value is a better one.
        details: other figures by name.

    """

    measure: str
    value: float | None
    count: int
    higher_is_better: bool
    details: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class TruthWords:
    """What labels call things.

    Attributes:
        categories: numbers that a file of annotations gives to classes, ascending; None where labels are the network's.
        characters: of the network, without the blank, in its order; None where labels are numbers.

    """

    categories: Sequence[int] | None = None
    characters: Sequence[str] | None = None
