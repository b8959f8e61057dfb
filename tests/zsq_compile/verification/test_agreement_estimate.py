import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import models
from zsq_compile.verification.agreement_estimate import (
    SHIFT,
    SPREAD,
    AgreementEstimate,
    Family,
    estimate_from_families,
    flip_share,
    log_odds,
)
from zsq_compile.verification.measure_families import compare_family, compare_parts, measure_families


@pytest.fixture
def scores():
    """Scores of ten classes for 300 samples."""
    return 3.0 * np.random.default_rng(0).standard_normal((300, 10))


def noisy(scores, amount, seed=1):
    return scores + amount * np.random.default_rng(seed).standard_normal(scores.shape)


def family(name, scores, others):
    return compare_family(name, {"logits": scores}, {"logits": others})


def a_family(flips, error=0.1):
    return Family(name="f", samples=100, sqnr_db=20.0, agreement=0.5, flips=flips, error=error, chosen=9, classes=10)


def test_outputs_may_come_a_few_samples_at_a_time(scores):
    others = noisy(scores, 0.5)
    maps = np.random.default_rng(2).standard_normal((300, 4, 5))
    parts = [
        (
            {"logits": scores[i : i + 70], "maps": maps[i : i + 70]},
            {"logits": others[i : i + 70], "maps": 0.9 * maps[i : i + 70]},
        )
        for i in range(0, 300, 70)
    ]
    found = compare_parts("f", parts)
    whole = compare_family("f", {"logits": scores, "maps": maps}, {"logits": others, "maps": 0.9 * maps})
    assert found.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-12)
    assert (found.samples, found.flips, found.margin) == (300, whole.flips, whole.margin)


def test_the_share_is_that_of_all_pairs():
    rng = np.random.default_rng(3)
    margins, errors = rng.exponential(1.0, 70), rng.standard_normal(70)
    share, _ = flip_share(margins, errors)
    assert share == pytest.approx(np.mean(margins[:, None] + errors[None, :] < 0.0), abs=1e-12)


def test_the_share_meets_its_closed_form():
    # margins Exp(1) and errors N(0, s): P(m + d < 0) = 1/2 - exp(s²/2) Phi(-s); 20 000 samples, four standard errors
    rng, s = np.random.default_rng(4), 0.7
    share, error = flip_share(rng.exponential(1.0, 20_000), s * rng.standard_normal(20_000))
    wanted = 0.5 - math.exp(s * s / 2) * 0.5 * math.erfc(s / math.sqrt(2))
    assert abs(math.log(share / (1 - share)) - math.log(wanted / (1 - wanted))) < 4 * error


def test_the_error_is_that_of_repeated_draws():
    rng, odds, errors = np.random.default_rng(5), [], []
    for _ in range(300):
        share, error = flip_share(rng.exponential(1.0, 200), 0.3 * rng.standard_normal(200))
        odds.append(math.log(share / (1 - share)))
        errors.append(error)
    # the deviation of 300 draws is itself known to 4 %; the formula leaves out terms of second order
    assert np.mean(errors) == pytest.approx(np.std(odds), rel=0.2)


def test_more_noise_flips_more():
    rng = np.random.default_rng(6)
    margins, errors = rng.exponential(2.0, 200), rng.standard_normal(200)
    shares = [flip_share(margins, amount * errors)[0] for amount in (0.01, 0.1, 0.3, 1.0, 3.0)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_errors_that_flip_nothing_are_not_certainty():
    share, error = flip_share(np.full(50, 9.0), np.full(50, -0.1))
    assert 0.0 < share < 1e-5
    assert error > 1.0
    assert flip_share(np.full(50, 1.0), np.full(50, -2.0))[0] < 1.0


def test_an_identical_network_agrees_on_all(scores):
    made = estimate_from_families([family("a", scores, scores), family("b", 2 * scores, 2 * scores)], "from BN nodes")
    assert (made.estimate, made.low, made.high) == (1.0, 1.0, 1.0)


def test_the_estimate_is_the_families_log_odds_and_the_shift():
    # shares of 0.2 and 0.4 have log-odds of log 4 and log 1.5 for what stays
    made = estimate_from_families([a_family(0.2), a_family(0.4)], "t", shift=1.0, spread=0.4)
    middle = (math.log(4.0) + math.log(1.5)) / 2 + 1.0
    reach = 1.645 * math.hypot(0.4, 0.1)
    wanted = [1 / (1 + math.exp(-odds)) for odds in (middle - reach, middle, middle + reach)]
    assert [made.low, made.estimate, made.high] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("amount", [0.01, 0.1, 0.5, 2.0, 10.0])
def test_the_interval_holds_the_estimate(scores, amount):
    made = estimate_from_families([family("a", scores, noisy(scores, amount))], "t")
    assert 0.0 < made.low < made.estimate < made.high <= 1.0


def test_the_estimate_falls_with_noise_and_lies_above_what_was_counted(scores):
    found = [family("a", scores, noisy(scores, amount)) for amount in (0.05, 0.2, 0.8, 2.0)]
    estimates = [estimate_from_families([one], "t").estimate for one in found]
    assert estimates == sorted(estimates, reverse=True)
    assert all(one.agreement < estimate for one, estimate in zip(found, estimates, strict=True) if one.agreement < 1)
    assert SHIFT > 0.0
    assert SPREAD > 0.0


def test_a_family_that_does_not_flip_does_not_outvote_one_that_does():
    odds, _ = log_odds([a_family(0.0, 0.0), a_family(0.2)])
    assert odds == pytest.approx(math.log(4.0))
    assert log_odds([a_family(0.0, 0.0)]) == (math.inf, 0.0)


def test_probabilities_are_compared_by_their_logarithms(scores):
    def softmax(values):
        powers = np.exp(values - values.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    others = noisy(scores, 0.5)
    plain, soft = family("a", scores, others), family("a", softmax(scores), softmax(others))
    assert soft.flips == pytest.approx(plain.flips, rel=1e-6)
    assert soft.margin == pytest.approx(plain.margin, rel=1e-6)


def test_a_network_without_classes_has_its_noise_and_no_estimate():
    boxes = np.random.default_rng(8).standard_normal((6, 9, 4))
    families = [
        compare_family(name, {"b": boxes}, {"b": boxes * (1 + step)}) for name, step in (("x", 0.1), ("y", 0.01))
    ]
    made = estimate_from_families(families, "t")
    assert (made.estimate, made.low, made.high) == (None, None, None)
    assert made.describe() == (
        "no estimate: no output has one row of scores for each sample; SQNR 20.0 to 40.0 dB on synthetic inputs"
    )


def test_coordinates_that_differ_little_from_sample_to_sample_are_not_taken_for_classes(scores):
    shape = 20.0 * np.random.default_rng(7).standard_normal(10)  # the mean face: several points vie for the largest
    shape[:4] = shape.max() + 1.0
    assert len(np.unique((shape + scores).argmax(1))) > 2
    told = estimate_from_families([family("f", shape + scores, shape + noisy(scores, 0.1))], "tier")
    assert told.estimate is None and told.reason is not None and "coordinates" in told.reason
    assert estimate_from_families([family("f", scores, noisy(scores, 0.1))], "tier").estimate is not None


def test_landmarks_are_not_taken_for_classes(scores):
    places = np.concatenate([scores, np.full((300, 90), 99.0)], 1)
    places[:, 50] = 120.0  # the largest coordinate is always the same
    made = estimate_from_families([family("a", places, noisy(places, 0.1))], "t")
    assert made.estimate is None
    assert "one of the same 1 for all synthetic inputs" in made.describe()


def test_a_reason_known_beforehand_is_kept():
    made = estimate_from_families([a_family(0.2)], "t", reason="it is no picture")
    assert made.estimate is None
    assert made.describe() == "no estimate: it is no picture; SQNR 20.0 to 20.0 dB on synthetic inputs"


def test_the_words_give_the_interval():
    made = AgreementEstimate(estimate=0.989, low=0.978, high=0.9951, calibration_source="from BN nodes", families=())
    assert made.describe() == "98.9% (97.8 to 99.5%)"


def test_both_networks_are_run_on_every_family(tmp_path: Path):
    float_model, other = models.residual(), tmp_path / "other.onnx"
    onnx.save(models.residual(seed=1), other)
    rng = np.random.default_rng(2)
    families = {name: {"x": rng.standard_normal((8, 3, 8, 8)).astype(np.float32)} for name in ("a", "b")}
    found = measure_families(float_model, other, families)
    assert [(one.name, one.samples, one.classes) for one in found] == [("a", 8, 5), ("b", 8, 5)]
    same = tmp_path / "same.onnx"
    onnx.save(float_model, same)
    assert all(one.flips == 0.0 and one.agreement == 1.0 for one in measure_families(float_model, same, families))
    assert json.dumps(found[0].flips)
