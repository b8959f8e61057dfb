"""Scores in the one form that comparisons work with."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["logits", "probabilities", "log probabilities"]
LEAST = 1e-6
"""Probabilities below it are the same."""

_SUM_TOLERANCE = 1e-2


def log_probabilities(scores: NDArray[Any], form: Form | None) -> NDArray[np.float64]:
    """Bring scores (..., classes) to log probabilities, at least ``log(LEAST)``; None tells their form by its sums."""
    values = scores.astype(np.float64)
    if form is None:
        sums = values.sum(-1)
        form = "probabilities" if values.min() >= 0.0 and np.all(np.abs(sums - 1.0) < _SUM_TOLERANCE) else "logits"
    if form == "probabilities":
        return np.asarray(np.log(np.maximum(values, LEAST)))
    top = values.max(-1, keepdims=True)
    values = values - top - np.log(np.exp(values - top).sum(-1, keepdims=True))
    return np.asarray(np.maximum(values, np.log(LEAST)))


def probabilities(scores: NDArray[Any], form: Form | None) -> NDArray[np.float64]:
    """Bring scores of yes or no to probabilities; where the form is unknown, numbers outside of 0 to 1 are logits."""
    values = scores.astype(np.float64)
    if form is None:
        form = "probabilities" if values.size and values.min() >= -LEAST and values.max() <= 1.0 + LEAST else "logits"
    if form == "log probabilities":
        return np.asarray(np.exp(np.minimum(values, 0.0)))
    if form == "logits":
        return np.asarray(0.5 * (np.tanh(0.5 * values) + 1.0))
    return np.clip(values, 0.0, 1.0)


def least_probability(strongest: float, usual: float) -> float:
    """Return the probability below which all are the same, where an answer has at most ``strongest``.

    It is ``usual``, below which nobody sets a threshold, but less where nothing comes near to an answer: what comes
    nearest must still differ.
    """
    return min(max(strongest / 10.0, 1e-12), usual)


def log_odds(probability: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Bring probabilities to log-odds, no further from 0.5 than ``least`` is."""
    clipped = np.clip(probability, least, 1.0 - least)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))
