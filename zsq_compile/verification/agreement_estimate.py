"""Estimate of the agreement with the float model on real data, from synthetic inputs alone.

Synthetic samples lie near the borders between classes far more often than real ones, so that their own agreement is too
low. How much too low is nearly one number for all networks that were measured, on the scale of log-odds.
`benchmarks/confidence.py` measures it, its spread over networks, and how often the interval held the truth.

The share of flipped decisions is smoothed. Counted on a few hundred samples it is coarse where one in a hundred flips;
with margins m (float score of the best class minus the next) and errors d (change of that difference by quantization)
taken as independent, P(m + d < 0) uses all pairs of samples instead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.metrics import SMALLEST_PROBABILITY, Z90, are_probabilities, decibel_words, logistic
from zsq_compile.verification.firmness import firmness
from zsq_compile.verification.hypothesis_estimate import HypothesisEstimate, worst

CLASSES = "equal decisions"
"""What is counted of networks that choose a class."""

LEVEL = 0.9
"""Share of intervals that should hold the true agreement."""

SHIFT = 0.63
"""Log-odds of agreement on real images minus those on synthetic families, at a ``firmness`` of 0: mean of networks."""

SLOPE = 0.56
"""How much more that is for each unit of ``firmness``."""

SPREAD = 0.49
"""Standard deviation of that over networks and bit widths, as measured on 400 to 2000 real images."""

_SMALLEST_FLIP_SHARE = 1e-6
_LEAST_SPREAD = 0.5  # of ``Family.spread`` for class scores; six networks had 1.25 to 7.6, one of landmarks 0.3
_LARGEST_ERROR = 2.0  # standard error of log-odds where no pair of samples flips


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Float against quantized network on one family of synthetic inputs.

    What tells of classes is None where no output has class scores, ``measure`` to ``harm`` where the task is not known
    to be another than to choose a class.

    Attributes:
        name: of the family.
        samples: how many.
        sqnr_db: the lowest over the float outputs that are not silent, dB; None without such outputs.
        agreement: share of equal decisions, as counted, 0 to 1.
        flips: share of decisions that change, smoothed over all pairs of margins and errors, 0 to 1.
        error: standard error of the log-odds of ``flips``.
        margin: of the float network's best score over the next, in units of the output: the median.
        chosen: number of different classes that the float network decides for.
        classes: number of classes that it can decide for.
        spread: variance of its scores over samples, in units of the variance between their means.
        measure: what ``kept`` counts, such as "boxes with IoU above 0.9".
        kept: share of what the float network says that the other says, too, 0 to 1; None where it says nothing.
        answers: how many boxes, texts, decisions or numbers that is a share of.
        harm: see ``TaskQuality``.

    """

    name: str
    samples: int
    sqnr_db: float | None
    agreement: float | None = None
    flips: float | None = None
    error: float | None = None
    margin: float | None = None
    chosen: int | None = None
    classes: int | None = None
    spread: float | None = None
    measure: str | None = None
    kept: float | None = None
    answers: int | None = None
    harm: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementEstimate:
    """Estimated agreement with the float model on real data, 0 to 1, with an interval.

    Attributes:
        estimate: None where there is none.
        low: lower end of the interval that holds the truth in ``level`` of the cases.
        high: its upper end.
        level: see ``LEVEL``.
        calibration_source: what the file was calibrated with, such as "from BN nodes".
        families: what was measured.
        reason: why there is no estimate; None where there is one.
        high_confidence: share of equal decisions, 0 to 1, on samples with a high score of the float network; None where
            that was not measured.
        hypotheses: what was found under each plausible preprocessing, which the interval spans; empty where it is one.
        proven: whether something proves the input: the user, or statistics of the training data.
        measure: what the shares count: equal decisions for a class, or what the network is for.

    """

    estimate: float | None
    low: float | None
    high: float | None
    calibration_source: str
    families: tuple[Family, ...]
    level: float = LEVEL
    reason: str | None = None
    high_confidence: float | None = None
    hypotheses: tuple[HypothesisEstimate, ...] = ()
    proven: bool = True
    measure: str = CLASSES

    @property
    def held(self) -> float | None:
        """What a gate is held against: the estimate, or the lower end where nothing proves the input."""
        return self.estimate if self.proven else self.low

    def describe(self) -> str:
        """Return the estimate and its interval, or why there is none, without ``calibration_source``."""
        if self.estimate is None or self.low is None or self.high is None:
            ratios = [family.sqnr_db for family in self.families if family.sqnr_db is not None]
            words = [decibel_words(end(ratios)) for end in (min, max) if ratios]
            noise = f"; SQNR {' to '.join(words).replace(' dB', '', 1)} on synthetic inputs" if ratios else ""
            noise += f", the worst with {lowest.words}" if ratios and (lowest := worst(self.hypotheses)) else ""
            return f"no estimate: {self.reason}{noise}"
        counted = "" if self.measure == CLASSES else f" of {self.measure}"
        return f"{100 * self.estimate:.1f}% ({100 * self.low:.1f} to {100 * self.high:.1f}%){counted}"


def flip_share(margins: NDArray[np.float64], errors: NDArray[np.float64]) -> tuple[float, float]:
    """P(m + d < 0) over all pairs of a margin and an error, and the standard error of its log-odds.

    Args:
        margins: (N,) of the float network, none below 0.
        errors: (N,) change of the margin of the same sample by quantization.

    Returns:
        The share: exactly 0 without errors, at least one in a million with them. And its error, by the projections of
        a two-sample U-statistic (Hoeffding 1948); a large one where no pair, or every pair, flips.

    """
    if not errors.any():
        return 0.0, 0.0
    falls, ordered = np.sort(-errors), np.sort(margins)
    of_margin = 1.0 - np.searchsorted(falls, margins, side="right") / len(errors)
    of_error = np.searchsorted(ordered, -errors, side="left") / len(margins)
    share = float(of_margin.mean())
    if not _SMALLEST_FLIP_SHARE < share < 1.0 - _SMALLEST_FLIP_SHARE:
        return min(max(share, _SMALLEST_FLIP_SHARE), 1.0 - _SMALLEST_FLIP_SHARE), _LARGEST_ERROR
    deviation = float((of_margin + of_error).std()) / math.sqrt(len(errors))
    return share, min(deviation / (share * (1.0 - share)), _LARGEST_ERROR)


def log_odds(families: Sequence[Family]) -> tuple[float, float] | None:
    """Mean log-odds of an unchanged decision, over families with class scores, and its standard error.

    The families are made of the same pictures, so that averaging them makes the error no smaller. None where no family
    has scores; infinite, and without error, where no decision has changed.
    """
    measured = [(one.flips, one.error) for one in families if one.flips is not None and one.error is not None]
    if not measured:
        return None
    if not any(flips for flips, _ in measured):
        return math.inf, 0.0
    odds = [math.log((1.0 - flips) / flips) for flips, _ in measured if flips > 0.0]
    errors = [error for flips, error in measured if flips > 0.0]
    return float(np.mean(odds)), float(np.mean(errors))


def estimate_from_families(
    families: Sequence[Family],
    source: str,
    *,
    reason: str | None = None,
    shift: float = SHIFT,
    slope: float = SLOPE,
    spread: float = SPREAD,
) -> AgreementEstimate:
    """Estimate the agreement on real data from that on synthetic families.

    Args:
        families: what was measured.
        source: see AgreementEstimate.calibration_source.
        reason: why there can be no estimate, if that is known beforehand.
        shift: see SHIFT.
        slope: see SLOPE.
        spread: see SPREAD.

    """
    found = log_odds(families)
    reason = reason or _no_classes(families, has_scores=found is not None)
    if found is None or reason is not None:
        return AgreementEstimate(
            estimate=None, low=None, high=None, calibration_source=source, families=tuple(families), reason=reason
        )
    firm = firmness((one.margin, one.classes) for one in families if one.margin is not None and one.classes)
    middle, reach = found[0] + shift + slope * firm, Z90 * math.hypot(spread, found[1])
    low, estimate, high = (logistic(middle + side * reach) for side in (-1.0, 0.0, 1.0))
    return AgreementEstimate(estimate=estimate, low=low, high=high, calibration_source=source, families=tuple(families))


def _no_classes(families: Sequence[Family], *, has_scores: bool) -> str | None:
    """Why the outputs of a network cannot be class scores; None where they may be."""
    if not has_scores:
        return "no output has one row of scores for each sample"
    classes = max(family.classes or 0 for family in families)
    chosen = max(family.chosen or 0 for family in families)
    if chosen < max(2.0, 0.5 * math.sqrt(classes)):  # of landmarks, angles and the like, the largest is always the same
        return f"the largest of {classes} outputs is one of the same {chosen} for all synthetic inputs, unlike classes"
    if max((one.spread for one in families if one.spread is not None), default=math.inf) < _LEAST_SPREAD:
        return (
            "its outputs differ less from sample to sample than from each other, as coordinates do and classes do not"
        )
    return None


def class_logits(scores: NDArray[Any]) -> NDArray[np.float64]:
    """(N, C) scores, or their logarithms where they are probabilities, whose margins shrink near 0 and 1."""
    rows = np.asarray(scores, np.float64).reshape(len(scores), -1)
    return np.log(np.maximum(rows, SMALLEST_PROBABILITY)) if are_probabilities(rows) else rows


def class_margins(scores: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) scores of the class that is given for each row of (N, C), minus the best of the others."""
    rows, rest = np.arange(len(scores)), scores.copy()
    rest[rows, classes] = -np.inf
    return np.asarray(scores[rows, classes] - rest.max(1), np.float64)
