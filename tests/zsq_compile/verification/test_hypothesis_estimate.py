from dataclasses import replace

import pytest

from zsq_compile.verification.hypothesis_estimate import HypothesisEstimate, span, worst

GOOD = HypothesisEstimate(words="unit", probability=0.7, estimate=0.9, low=0.8, high=0.95, sqnr_db=20.0)
BAD = HypothesisEstimate(words="imagenet", probability=0.3, estimate=0.2, low=0.1, high=0.4, sqnr_db=2.0)


def test_the_interval_reaches_from_the_worst_to_the_best_and_the_middle_is_weighted() -> None:
    assert span((GOOD, BAD)) == pytest.approx((0.69, 0.1, 0.95))


def test_an_improbable_one_lowers_the_lower_end_and_not_the_middle() -> None:
    rare = span((replace(GOOD, probability=0.98), replace(BAD, probability=0.02)))
    assert rare == pytest.approx((0.886, 0.1, 0.95))


def test_one_without_an_estimate_leaves_none() -> None:
    assert span((GOOD, replace(BAD, estimate=None, low=None, high=None))) is None
    assert span(()) is None


def test_the_worst_is_that_of_the_lowest_end_or_ratio() -> None:
    assert worst((GOOD, BAD)) == BAD
    bare = [replace(one, estimate=None, low=None, high=None) for one in (GOOD, BAD)]
    assert worst(bare) == bare[1]
    assert worst(()) is None
