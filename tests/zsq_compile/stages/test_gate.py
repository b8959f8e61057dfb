from dataclasses import replace

import pytest

from tests.zsq_compile.reporting.reports import a_report
from zsq_compile.reporting.report import Report
from zsq_compile.stages.gate import describe_held, is_missed
from zsq_compile.verification.agreement_estimate import AgreementEstimate
from zsq_compile.verification.hypothesis_estimate import HypothesisEstimate

WAYS = tuple(
    HypothesisEstimate(words=name, probability=0.5, estimate=middle, low=low, high=0.99, sqnr_db=9.0)
    for name, middle, low in (("unit", 0.95, 0.9), ("imagenet", 0.3, 0.2))
)
OPEN = AgreementEstimate(
    estimate=0.625, low=0.2, high=0.99, calibration_source="", families=(), hypotheses=WAYS, proven=False
)


def report(estimate: AgreementEstimate) -> Report:
    return replace(a_report(), agreement_estimate=estimate)


@pytest.mark.parametrize(("wanted", "missed"), [(0.15, False), (0.5, True), (0.9, True)])
def test_an_open_input_is_held_against_the_lowest_end(wanted: float, missed: bool) -> None:
    assert is_missed(report(OPEN), wanted) == missed
    assert not is_missed(report(OPEN), None)


def test_a_proven_input_is_held_against_the_estimate() -> None:
    proven = replace(OPEN, proven=True, hypotheses=())
    assert not is_missed(report(proven), 0.6)
    assert is_missed(report(proven), 0.7)
    assert describe_held(proven, proven.held) == "it is 0.6250"


def test_what_would_settle_it_is_said() -> None:
    words = describe_held(OPEN, OPEN.held)
    for part in ("0.2000", "imagenet", "0.6250", "--like", "--input-range", "--mean"):
        assert part in words


def test_without_an_estimate_decisions_on_held_out_samples_are_held_against() -> None:
    bare = replace(OPEN, estimate=None, low=None, high=None, reason="x")
    assert report(bare).held_agreement == report(bare).validation.agreement
    assert is_missed(report(bare), 0.99)
