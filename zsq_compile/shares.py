"""Shares between 0 and 1 that are estimated or counted, and their intervals for nine cases in ten."""

import math

QUANTILE = 1.645
"""Of a normal distribution, two-sided at nine in ten."""


def share_of(odds: float) -> float:
    """Share of log-odds; 1 for infinite ones."""
    return 1.0 / (1.0 + math.exp(-odds)) if odds > -700.0 else 0.0


def counted_interval(share: float, samples: int) -> tuple[float, float]:
    """Where a share lies that was counted on so many samples (Wilson 1927)."""
    spread = QUANTILE**2 / samples
    middle = share + spread / 2.0
    reach = QUANTILE * math.sqrt(share * (1.0 - share) / samples + spread / (4.0 * samples))
    return (middle - reach) / (1.0 + spread), (middle + reach) / (1.0 + spread)
