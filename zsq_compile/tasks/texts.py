"""Read texts off rows of character scores (CTC), and count the edits between two texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Text = tuple[int, ...]
"""Classes of its characters."""


def read_texts(scores: NDArray[Any], blank: int | None) -> list[Text]:
    """Read the text of each sample off scores (N, steps, characters) by the largest (Graves et al. 2006, best path).

    Steps that repeat the one before, and blanks, are left out; nothing is where there is no blank.
    """
    best = scores.argmax(-1)
    if blank is None:
        return [tuple(row.tolist()) for row in best]
    fresh = np.ones(best.shape, bool)
    fresh[:, 1:] = best[:, 1:] != best[:, :-1]
    fresh &= best != blank
    return [tuple(row[kept].tolist()) for row, kept in zip(best, fresh, strict=True)]


def edit_distance(wanted: Sequence[Any], got: Sequence[Any]) -> int:
    """Count the insertions, deletions and substitutions that make ``got`` of ``wanted`` (Levenshtein 1966)."""
    row = list(range(len(got) + 1))
    for number, one in enumerate(wanted, start=1):
        before, row[0] = row[0], number
        for index, other in enumerate(got, start=1):
            before, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, before + (one != other))
    return row[-1]
