"""Boxes, masks and texts in archives of arrays."""

from collections.abc import Collection

import numpy as np

from zsq_compile.data.annotations import Annotations, BoxRow, Row, mark_judged
from zsq_compile.data.array_files import Arrays
from zsq_compile.errors import ConfigError
from zsq_compile.tasks.truths import TruthWords

_BOXES, _CLASSES, _MASKS, _TEXTS, _CHARACTERS = "boxes", "classes", "masks", "texts", "characters"


def take_annotations(arrays: Arrays, inputs: Collection[str], what: str) -> tuple[Arrays, Annotations | None]:
    """Take labels out of arrays, but for those that an input is called like.

    ``boxes`` (N, most, 4) x1, y1, x2, y2 in pixels of what is in the archive, with ``classes`` (N, most), -1 of none;
    ``masks`` (N, H, W), the class of each pixel; ``texts`` (N,), with ``characters`` (classes,) where they are words,
    or else numbers with spaces between them.

    Raises:
        ConfigError: they do not fit each other.

    """
    rest = dict(arrays)

    def take(name: str) -> np.ndarray | None:
        return None if name in inputs else rest.pop(name, None)

    boxes, masks, texts = take(_BOXES), take(_MASKS), take(_TEXTS)
    words = TruthWords()
    rows: list[Row]
    if boxes is not None:
        classes = take(_CLASSES)
        if boxes.ndim != 3 or boxes.shape[2] != 4 or classes is None or classes.shape != boxes.shape[:2]:
            shape = None if classes is None else classes.shape
            raise ConfigError(f"{what}: wanted boxes (N, most, 4) and classes (N, most), got {boxes.shape} and {shape}")
        rows = [_row(*pair) for pair in zip(boxes, classes, strict=True)]
        return rest, Annotations(kind="boxes", rows=rows, words=words)
    if masks is not None:
        if masks.ndim != 3:
            raise ConfigError(f"{what}: wanted masks (N, H, W) with the class of each pixel, got {masks.shape}")
        rows = list(mark_judged(masks))
        return rest, Annotations(kind="masks", rows=rows, words=words)
    if texts is not None:
        characters = take(_CHARACTERS)
        if characters is None and not all(part.isdigit() for text in texts.reshape(-1) for part in str(text).split()):
            raise ConfigError(f"{what} has texts, and no characters (classes,) that say which class each of them is")
        strings = [str(text) for text in texts.reshape(-1)]
        if characters is not None:
            rows, words = list(strings), TruthWords(characters=tuple(map(str, characters.reshape(-1))))
        else:
            rows = [tuple(map(int, text.split())) for text in strings]
        return rest, Annotations(kind="texts", rows=rows, words=words)
    return rest, None


def _row(corners: np.ndarray, classes: np.ndarray) -> BoxRow:
    real = classes >= 0
    return BoxRow(
        corners=corners[real].astype(np.float64),
        classes=classes[real].astype(np.int64),
        crowds=np.zeros(real.sum(), bool),
    )
