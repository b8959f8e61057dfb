"""Estimate of how much of what a network is for its quantized file keeps on real data, from made-up inputs alone.

The share that is kept on families of inputs that calibration has not seen, weighted by answers, is carried over to real
data on the scale of log-odds, as for classes (`agreement_estimate.py`). How much that moves and how far it scatters is
set by hand, widely: `benchmarks/task_estimates.py` can fit it, leaving one network out, once enough have been measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zsq_compile.metrics import Z90, logistic
from zsq_compile.verification.agreement_estimate import AgreementEstimate, Family

FEWEST = 5
"""Answers of the float network on all families together, below which nothing is estimated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFit:
    """Log-odds on real data are ``shift`` + ``slope`` times those on families, and scatter by ``spread`` over networks.

    ``assumed_spread`` is in the place of ``spread`` where nothing proves how an input is prepared.
    """

    shift: float
    slope: float
    spread: float
    assumed_spread: float


TASK_FIT = TaskFit(shift=0.0, slope=1.0, spread=1.0, assumed_spread=1.5)
"""Constants in use, set by hand: the truth of two networks (a detector, a detector of voice) lay inside."""


def kept_odds(families: Sequence[Family]) -> tuple[float, float] | None:
    """Log-odds that an answer is kept, over all answers of families, and their standard error.

    Half an answer is added to those kept and those lost (Haldane 1956). Answers of one sample are no independent ones,
    so that no more answers count than there are samples. None where the float network answers too seldom.
    """
    told = [(one.kept, one.answers, one.samples) for one in families if one.kept is not None and one.answers]
    answers = sum(count for _, count, _ in told)
    if answers < FEWEST:
        return None
    share = sum(kept * count for kept, count, _ in told) / answers
    odds = math.log((share * answers + 0.5) / ((1.0 - share) * answers + 0.5))
    independent = sum(min(count, samples) for _, count, samples in told)
    kept = share * independent
    return odds, math.sqrt(1.0 / (kept + 0.5) + 1.0 / (independent - kept + 0.5))


def estimate_task(
    families: Sequence[Family],
    source: str,
    *,
    reason: str | None = None,
    assumed: bool = False,
    fit: TaskFit = TASK_FIT,
) -> AgreementEstimate:
    """Estimate what is kept on real data from what is kept on synthetic families.

    Args:
        families: what was measured, with ``measure``.
        source: see AgreementEstimate.calibration_source.
        reason: why there can be no estimate, if that is known beforehand.
        assumed: nothing proves how an input is prepared.
        fit: constants.

    """
    measure = next((one.measure for one in families if one.measure is not None), None)
    found = kept_odds(families)
    if reason is None and measure is None:
        reason = "the outputs that say what the network is for cannot be compared"
    if reason is None and found is None:
        reason = "the float network says nothing, or next to nothing, on synthetic inputs"
    if found is None or measure is None or reason is not None:
        return AgreementEstimate(
            estimate=None,
            low=None,
            high=None,
            calibration_source=source,
            families=tuple(families),
            reason=reason,
            measure=measure or "what the network says",
        )
    middle = fit.shift + fit.slope * found[0]
    reach = Z90 * math.hypot(fit.assumed_spread if assumed else fit.spread, fit.slope * found[1])
    low, estimate, high = (logistic(middle + side * reach) for side in (-1.0, 0.0, 1.0))
    return AgreementEstimate(
        estimate=estimate,
        low=low,
        high=high,
        calibration_source=source,
        families=tuple(families),
        measure=measure,
    )
