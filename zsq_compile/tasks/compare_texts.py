"""Compare the texts that two networks read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.tasks.scores import log_probabilities
from zsq_compile.tasks.task import OutputMeaning, TaskQuality
from zsq_compile.tasks.texts import edit_distance, read_texts

MEASURE = "equal texts"


def compare_texts(meaning: OutputMeaning, blank: int | None, wanted: NDArray[Any], got: NDArray[Any]) -> TaskQuality:
    """Compare rows of character scores (N, steps, characters), or with the characters on another axis."""
    axis = meaning.axis if meaning.axis is not None else wanted.ndim - 1
    rows = [_rows(array, axis) for array in (wanted, got)]
    texts = [read_texts(one, blank) for one in rows]
    pairs = [(one, other) for one, other in zip(*texts, strict=True) if one or other]
    edits = sum(edit_distance(one, other) for one, other in pairs)
    characters = sum(len(one) for one, _ in pairs)
    return TaskQuality(
        measure=MEASURE,
        kept=sum(one == other for one, other in pairs) / len(pairs) if pairs else None,
        count=len(pairs),
        harm=_harm(meaning, blank, *rows),
        details={"character error rate": edits / characters} if characters else {},
        weights={"harm": float(len(wanted)), "character error rate": float(characters)},
    )


def _rows(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Bring to (N, steps, characters)."""
    moved = np.moveaxis(array, axis, -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])


def _harm(meaning: OutputMeaning, blank: int | None, wanted: NDArray[Any], got: NDArray[Any]) -> float:
    """Change of the margin between the best two characters of a step, weighted by how little of it is blank."""
    total = weight = 0.0
    for one, other in zip(wanted, got, strict=True):  # a sample at a time: thousands of characters a step
        before, after = (log_probabilities(rows, meaning.scores) for rows in (one, other))
        order = np.argpartition(before, -2, axis=-1)[:, -2:] if before.shape[1] > 1 else np.zeros((len(before), 2), int)
        steps = np.arange(len(before))
        firsts, seconds = before[steps, order[:, 1]], before[steps, order[:, 0]]
        rival = after.copy()
        rival[steps, order[:, 1]] = -np.inf
        margin, changed = firsts - seconds, after[steps, order[:, 1]] - rival.max(1)
        change = np.abs(margin - changed)
        said = 1.0 - np.exp(before[:, blank]) if blank is not None else np.ones(len(before))
        weights = np.clip(said, 0.0, 1.0) + 1e-3
        total += float(np.sum(weights * change / (1.0 + change)))
        weight += float(np.sum(weights))
    return total / weight if np.isfinite(total) else float("inf")
