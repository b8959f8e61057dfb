"""One interval out of several, where more than one preprocessing of the inputs is plausible."""

from collections.abc import Sequence
from dataclasses import dataclass

from zsq_compile.metrics import decibel_words


@dataclass(frozen=True, kw_only=True, slots=True)
class HypothesisEstimate:
    """Estimated agreement on real data if one plausible preprocessing is the true one, 0 to 1.

    Attributes:
        words: names the preprocessing, such as "unit".
        probability: of it, 0 to 1; those of all plausible ones add up to 1.
        estimate: None where there is none.
        low: lower end of the interval.
        high: its upper end.
        sqnr_db: the lowest over families and float outputs, dB; None without such outputs.

    """

    words: str
    probability: float
    estimate: float | None
    low: float | None
    high: float | None
    sqnr_db: float | None

    def describe(self) -> str:
        """Return the figures of this preprocessing, such as "unit (70 %): 95.0% (90.1 to 97.5%)"."""
        name = f"{self.words} ({self.probability:.0%})"
        if self.estimate is None or self.low is None or self.high is None:
            return f"{name}: {'no float output' if self.sqnr_db is None else f'SQNR {decibel_words(self.sqnr_db)}'}"
        return f"{name}: {100 * self.estimate:.1f}% ({100 * self.low:.1f} to {100 * self.high:.1f}%)"


def span(hypotheses: Sequence[HypothesisEstimate]) -> tuple[float, float, float] | None:
    """Return one estimate and the ends of its interval; None where a hypothesis has no estimate.

    The interval reaches from the lowest of all lower ends to the highest of all upper ends: only one of the hypotheses
    is true, and nobody knows which. The estimate is their mean, weighted by probability, so that an improbable one
    lowers the lower end and hardly the middle.
    """
    known = [
        (one.probability, one.estimate, one.low, one.high)
        for one in hypotheses
        if one.estimate is not None and one.low is not None and one.high is not None
    ]
    if not known or len(known) < len(hypotheses):
        return None
    whole = sum(probability for probability, *_ in known)
    middle = sum(probability * estimate for probability, estimate, *_ in known) / whole
    return middle, min(low for *_, low, _ in known), max(high for *_, high in known)


def worst(hypotheses: Sequence[HypothesisEstimate]) -> HypothesisEstimate | None:
    """Return the hypothesis with the lowest lower end, or without intervals the lowest ratio; None without figures."""
    ends = [one for one in hypotheses if one.low is not None]
    if ends:
        return min(ends, key=lambda one: one.low or 0.0)
    noisy = [one for one in hypotheses if one.sqnr_db is not None]
    return min(noisy, key=lambda one: one.sqnr_db or 0.0, default=None)
