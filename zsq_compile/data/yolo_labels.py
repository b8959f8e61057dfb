"""Boxes in one text file for each picture, as YOLO's tools write them: class, centre and size in shares of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zsq_compile.data.annotations import Annotations, BoxRow
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.truths import TruthWords


def find_yolo(pictures: Sequence[Path], labels: Path) -> Annotations | None:
    """Read the labels of pictures from files of the same stem in a folder.

    A picture without a file has no boxes, as one with an empty file.

    Returns:
        None where no picture has such a file, or where the first line of them all is no box: other tools put captions
        into files of these names.

    Raises:
        ConfigError: a later line is no box.

    """
    files = [labels / f"{picture.stem}.txt" for picture in pictures]
    lines = [_lines(file) if file.is_file() else [] for file in files]
    first = next((line for own in lines for line in own), None)
    if not any(file.is_file() for file in files) or (first is not None and _box(first) is None):
        return None
    rows = [_row(own, file) for own, file in zip(lines, files, strict=True)]
    return Annotations(kind="boxes", rows=rows, words=TruthWords())


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def _box(line: str) -> tuple[int, list[float]] | None:
    """Class and corners that a line says; None where it says no box."""
    try:
        index, *numbers = map(float, line.split())
    except ValueError:
        return None
    if index < 0.0 or index != int(index) or len(numbers) < 4 or len(numbers) % 2:
        return None
    return int(index), _corners(numbers)


def _corners(numbers: list[float]) -> list[float]:
    """Corners of a box, or of what a polygon of more than two points reaches over."""
    if len(numbers) == 4:
        x, y, wide, high = numbers
        return [x - wide / 2.0, y - high / 2.0, x + wide / 2.0, y + high / 2.0]
    return [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]


def _row(lines: Sequence[str], file: Path) -> BoxRow:
    boxes = []
    for line in lines:
        box = _box(line)
        if box is None:
            raise ConfigError(f"{file}: wanted class x y width height in shares of the picture, got {line!r}")
        boxes.append(box)
    return BoxRow(
        corners=np.array([corners for _, corners in boxes], np.float64).reshape(-1, 4),
        classes=np.array([index for index, _ in boxes], np.int64),
        crowds=np.zeros(len(boxes), bool),
        shares=True,
    )
