"""Real inputs lower an estimate where they keep fewer decisions, and never raise it."""

import math

import pytest

from zsq_compile.verification.agreement_estimate import AgreementEstimate, Family
from zsq_compile.verification.real_family import lower_by_real

MADE = AgreementEstimate(estimate=0.97, low=0.94, high=0.985, calibration_source="t", families=())


def family(flips: float | None, error: float | None = 0.2) -> Family:
    return Family(name="real inputs", samples=64, sqnr_db=20.0, flips=flips, error=error)


def test_fewer_kept_decisions_lower_the_estimate_to_what_they_allow() -> None:
    found = lower_by_real(MADE, family(0.2), 0.4)
    reach = 1.6449 * math.hypot(0.4, 0.2)
    low = 1.0 / (1.0 + math.exp(-(math.log(0.8 / 0.2) - reach)))
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.estimate == pytest.approx(MADE.low)  # below the old interval it does not fall
    assert found.high == MADE.high
    assert [one.name for one in found.families] == ["real inputs"]


@pytest.mark.parametrize("flips", [0.0, 1e-4, 0.01, None])
def test_more_kept_decisions_change_nothing(flips: float | None) -> None:
    found = lower_by_real(MADE, family(flips, None if flips is None else 0.2), 0.4)
    assert (found.estimate, found.low, found.high) == (MADE.estimate, MADE.low, MADE.high)


def test_without_an_estimate_there_is_nothing_to_lower() -> None:
    none = AgreementEstimate(estimate=None, low=None, high=None, calibration_source="t", families=(), reason="r")
    found = lower_by_real(none, family(0.2), 0.4)
    assert (found.estimate, found.low, found.reason) == (None, None, "r")
