"""Labels that are more than a class: boxes, masks and texts, and where they end up in the network's input."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.pictures import Frame, frame_picture, picture_size
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.truths import BoxTruth, Truth, TruthKind, TruthWords

_LEAST_SEEN = 0.5  # of a box that is cut at the edge of what the network sees: below it, it may be found or not
_NOT_JUDGED = 255  # what Pascal VOC and Cityscapes mark pixels with that belong to nothing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BoxRow:
    """Boxes of one picture as a file has them.

    Attributes:
        corners: (n, 4) x1, y1, x2, y2 in pixels of the picture, or in shares of it.
        classes: (n,) as the file numbers them.
        crowds: (n,) whether a box stands for many objects.
        shares: whether the corners are shares.

    """

    corners: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowds: NDArray[np.bool_]
    shares: bool = False


Row = BoxRow | Path | NDArray[np.int64] | str | tuple[int, ...]
"""Labels of one sample: its boxes, its mask or the file of it, or its text."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Annotations:
    """Labels of all samples, in their order.

    Attributes:
        kind: what they are.
        rows: one for each sample.
        words: what they call things.

    """

    kind: TruthKind
    rows: Sequence[Row]
    words: TruthWords

    def part(self, rows: slice) -> "Annotations":
        """Return those of some samples."""
        return replace(self, rows=self.rows[rows])


def join_annotations(parts: Sequence[Annotations | None]) -> Annotations | None:
    """Put the annotations of several places behind each other; None where one of them has none.

    Raises:
        ConfigError: they are not of one kind, or call things differently.

    """
    found = [part for part in parts if part is not None]
    if not found or len(found) < len(parts):
        return None
    if len({(part.kind, repr(part.words)) for part in found}) > 1:
        raise ConfigError("the labels of several places are of different kinds, or for different classes: give one")
    return replace(found[0], rows=[row for part in found for row in part.rows])


def place_truths(
    annotations: Annotations, pictures: Sequence[Any] | NDArray[Any] = (), size: tuple[int, int] | None = None
) -> list[Truth]:
    """Say what is true of samples in the pixels that the network sees.

    Args:
        annotations: of the samples.
        pictures: files or pixels (H, W, ...) that they are of; none where labels are for inputs that are ready.
        size: rows and columns that the pictures are fitted to.

    """
    if annotations.kind == "texts":
        return [place_truth(row, (), None) for row in annotations.rows]
    if size is None:
        return [place_truth(row, _seen(row), None) for row in annotations.rows]
    shapes = [picture_size(one) if isinstance(one, Path) else one.shape for one in pictures]
    return [place_truth(row, shape, size) for row, shape in zip(annotations.rows, shapes, strict=True)]


def _seen(row: Row) -> tuple[int, ...]:
    """Shape of what the labels of an input that is ready are for: where it is unknown, nothing is cut off."""
    if isinstance(row, np.ndarray):
        return row.shape
    return (int(np.iinfo(np.int32).max),) * 2


def place_truth(row: Row, shape: tuple[int, ...], size: tuple[int, int] | None) -> Truth:
    """Say what is true of a sample in the pixels that the network sees.

    Args:
        row: its label.
        shape: of its picture as it is, (H, W, ...).
        size: rows and columns that the picture is fitted to; None where it goes in as it is.

    """
    if isinstance(row, str | tuple):
        return row
    frame = frame_picture(shape[0], shape[1], *(size or shape[:2]))
    if isinstance(row, BoxRow):
        return _boxes_in(row, shape, frame)
    mask = read_mask(row) if isinstance(row, Path) else row
    if mask.shape != shape[:2]:
        raise ConfigError(f"a mask is {mask.shape}, and its picture {shape[:2]}: wanted the same size")
    down = _cells(mask.shape[0], frame.rows)[frame.top : frame.top + frame.height]
    right = _cells(mask.shape[1], frame.columns)[frame.left : frame.left + frame.width]
    return np.asarray(mask[down[:, None], right[None]])


def read_mask(file: Path) -> NDArray[np.int64]:
    """Read the class of each pixel: the number in the palette, or the gray level; -1 of pixels that are not judged.

    255 is such a pixel, but in a picture of nothing but 0 and 255, where it is the foreground.

    Raises:
        ConfigError: it is no picture of one channel.

    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            values = np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.int64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"cannot read {file} as a mask: {error}") from error
    if values.ndim == 3 and np.array_equal(values[..., 0], values[..., 1]):
        values = values[..., 0]
    if values.ndim != 2:
        raise ConfigError(
            f"{file} is a picture in colour; wanted a mask with the class of each pixel as its gray level"
        )
    return mark_judged(values)


def mark_judged(values: NDArray[Any]) -> NDArray[np.int64]:
    """Bring a mask to classes from 0, with -1 where nothing is judged."""
    mask = np.asarray(values, np.int64)
    if set(np.unique(mask).tolist()) <= {0, _NOT_JUDGED}:
        return np.asarray(mask > 0, np.int64)
    return np.where(mask == _NOT_JUDGED, -1, mask)


def _boxes_in(row: BoxRow, shape: tuple[int, ...], frame: Frame) -> BoxTruth:
    pixels = row.corners * np.tile([shape[1], shape[0]], 2) if row.shares else row.corners
    scale = np.tile([frame.columns / shape[1], frame.rows / shape[0]], 2)
    whole = pixels * scale - np.tile([frame.left, frame.top], 2)
    seen = np.clip(whole, 0.0, np.tile([frame.width, frame.height], 2))
    before, after = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (whole, seen))
    inside = after > 0.0
    ignored = row.crowds | (after < _LEAST_SEEN * before)
    return BoxTruth(corners=seen[inside], classes=row.classes[inside], ignored=ignored[inside])


def _cells(old: int, new: int) -> NDArray[np.int64]:
    """Return the old cell whose centre is nearest to that of each new one."""
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
