"""What a few real inputs, beside the synthetic families, do to an estimate of the agreement."""

import math
from dataclasses import replace

from zsq_compile.metrics import Z90, logistic
from zsq_compile.verification.agreement_estimate import AgreementEstimate, Family, log_odds
from zsq_compile.verification.task_estimate import kept_odds


def lower_by_real(made: AgreementEstimate, real: Family, spread: float) -> AgreementEstimate:
    """Lower an estimate where a few real inputs, and variants of them, keep fewer decisions than it says.

    They are no synthetic samples, so nothing is added to their log-odds; and they have been calibrated on, so they are
    no proof of more.
    """
    found = log_odds([real]) if real.measure is None else kept_odds([real])
    with_real = replace(made, families=(*made.families, real))
    if found is None or made.estimate is None or made.low is None or math.isinf(found[0]):
        return with_real
    reach = Z90 * math.hypot(spread, found[1])
    low, high = logistic(found[0] - reach), logistic(found[0] + reach)
    return replace(with_real, low=min(made.low, low), estimate=min(made.estimate, max(high, made.low)))
