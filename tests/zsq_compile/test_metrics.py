import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsq_compile.metrics import (
    Output,
    agreement,
    are_probabilities,
    array_outputs,
    class_axis,
    decibel_words,
    decibels,
    decision_output,
    decisions,
    is_silent,
    logistic,
    score_count,
    score_output,
    share_beyond,
    sqnr_db,
    top1,
    wilson_interval,
)


def test_sqnr_is_the_ratio_of_powers():
    reference = np.float32([3, 4])
    assert sqnr_db(reference, reference + np.float32([0.3, 0.4])) == pytest.approx(20.0, abs=1e-5)
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(np.zeros(2), np.ones(2)) == -math.inf


@pytest.mark.parametrize(
    ("signal", "noise", "wanted"),
    [
        (100.0, 1.0, 20.0),
        (1e-300, 1e300, -6000.0),
        (1.0, 0.0, math.inf),
        (0.0, 0.0, math.inf),
        (0.0, 1.0, -math.inf),
        (1.0, math.nan, -math.inf),
        (math.inf, 1.0, -math.inf),
    ],
)
def test_decibels(signal, noise, wanted):
    assert decibels(signal, noise) == pytest.approx(wanted)


@given(st.floats(-60.0, 60.0), st.integers(0, 2**32 - 1))
def test_sqnr_finds_the_noise_that_was_added(decibels, seed):
    rng = np.random.default_rng(seed)
    signal, noise = rng.standard_normal((2, 64))
    noise *= np.sqrt(np.sum(signal**2) / np.sum(noise**2)) * 10 ** (-decibels / 20)
    assert sqnr_db(signal, signal + noise) == pytest.approx(decibels, abs=1e-6)


def test_sqnr_does_not_overflow_in_half_precision():
    reference = np.full(1000, 300, np.float16)
    assert sqnr_db(reference, reference + np.float16(30)) == pytest.approx(20.0, abs=0.1)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((8,), None),
        ((8, 10), 1),
        ((8, 1), None),
        ((2, 4420, 2), 2),
        ((1, 21, 65, 65), 1),
        ((1, 65, 65, 21), 3),
        ((2, 2, 240, 320), 1),
        ((2, 240, 320, 2), 3),
        ((2, 1, 64, 64), None),
        ((2, 1000, 1, 1), 1),
    ],
)
def test_class_axis(shape, axis):
    assert class_axis(shape) == axis


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        ((8, 10), 10),
        ((8, 1), None),
        ((8,), None),
        ((2, 1000, 1, 1), 1000),
        ((2, 1, 1, 1000), 1000),
        ((2, 1600, 1), None),  # scores of 1600 boxes
        ((1, 1, 128), None),  # one step of a sequence, or a recurrent state
        ((2, 4420, 2), None),
        ((1, 21, 65, 65), None),
        ((8, 0), None),
        ((0, 10, 0, 0), None),  # unknown sizes
    ],
)
def test_outputs_with_one_row_of_scores_for_each_sample(shape, classes):
    assert score_count(Output(shape, is_float=True)) == classes
    assert score_count(Output(shape, is_float=False)) is None


BOXES, CODES, LOGITS = np.zeros((4, 9, 4)), np.zeros((4, 6), np.int64), np.zeros((4, 6, 1, 1))


@pytest.mark.parametrize(
    ("outputs", "scores", "decides", "decides_per_sample"),
    [
        ({"boxes": BOXES, "codes": CODES, "logits": LOGITS}, "logits", "logits", "logits"),
        ({"one": np.zeros((4, 1)), "boxes": BOXES, "codes": CODES}, None, "boxes", None),
        ({"one": np.zeros((4, 1)), "codes": CODES, "boxes": BOXES}, None, "codes", None),
        ({"boxes": BOXES, "class": np.zeros(4, np.int64)}, None, "boxes", "class"),
        ({"mask": np.zeros((2, 1, 8, 8))}, None, None, None),
        ({"none": np.zeros((0, 9, 4))}, None, None, None),
    ],
)
def test_which_output_decides(outputs, scores, decides, decides_per_sample):
    described = array_outputs(outputs)
    assert score_output(described) == scores
    assert decision_output(described) == decides
    assert decision_output(described, per_sample=True) == decides_per_sample


def test_probabilities_are_told_from_logits():
    rows = np.float64([[0.2, 0.8], [1.0, 0.0]])
    assert are_probabilities(rows)
    assert not are_probabilities(rows + 0.01)
    assert not are_probabilities(rows + np.float64([0.5, -0.5]))


def test_decisions():
    np.testing.assert_array_equal(decisions(np.float32([[1, 0], [0, 1]])), [0, 1])
    np.testing.assert_array_equal(decisions(np.int64([3, 1])), [3, 1])
    assert decisions(np.zeros((2, 1, 8, 8))) is None
    assert decisions(np.zeros((0, 3))) is None


def test_agreement_counts_every_decision():
    a = np.float32([[1, 0], [0, 1], [1, 0], [0, 1]])
    b = np.float32([[1, 0], [0, 1], [0, 1], [0, 1]])
    assert agreement(a, b) == 0.75
    # The same decisions as four pixels of one dense output, classes on axis 1.
    assert agreement(a.T.reshape(1, 2, 2, 2), b.T.reshape(1, 2, 2, 2)) == 0.75
    assert agreement(np.int64([1, 2, 3]), np.int64([1, 2, 4])) == pytest.approx(2 / 3)
    assert agreement(np.zeros(3), np.zeros(3)) is None


def test_agreement_can_forgive_ties():
    a, b = np.float32([[0, 1]]), np.float32([[1, 1]])
    assert agreement(a, b) == 0.0
    assert agreement(a, b, slack=0.0) == 1.0
    assert agreement(a, np.float32([[1, 0.75]]), slack=0.0) == 0.0
    assert agreement(a, np.float32([[1, 0.75]]), slack=0.25) == 1.0


def test_top1():
    logits = np.float32([[1, 3, 2], [9, 0, 0], [0, 0, 5], [0, 1, 0]])
    assert top1(logits, np.int64([1, 0, 2, 2])) == 0.75
    assert top1(logits.reshape(4, 3, 1, 1), np.int64([1, 0, 2, 2])) == 0.75
    assert top1(np.int64([1, 0, 2, 1]), np.int64([1, 0, 2, 2])) == 0.75
    with pytest.raises(ValueError, match="labels run from 1 to 3, but the model has 3 classes"):
        top1(logits, np.int64([1, 2, 3, 1]))
    with pytest.raises(ValueError, match="got 4 rows and 2 labels"):
        top1(logits, np.int64([1, 2]))


def test_share_beyond_counts_nan_as_different():
    assert share_beyond(np.float32([0, 0, 0, np.nan]), np.float32([0.5, 1.5, -0.5, np.nan]), 1.0) == 0.5


@pytest.mark.parametrize("metric", [sqnr_db, agreement, lambda a, b: share_beyond(a, b, 1.0)])
def test_shapes_must_match(metric):
    with pytest.raises(ValueError, match=r"wanted two arrays of one shape, got \(2,\) and \(3,\)"):
        metric(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_logistic_inverts_log_odds(share):
    assert logistic(math.log(share / (1.0 - share))) == pytest.approx(share)
    assert (logistic(math.inf), logistic(-math.inf)) == (1.0, 0.0)


@pytest.mark.parametrize("samples", [20, 360, 1000])
def test_the_wilson_interval_holds_nine_draws_of_ten(samples):
    low, high = wilson_interval(1.0, samples)
    assert high == pytest.approx(1.0) and low == pytest.approx(samples / (samples + 1.645**2))
    low, high = wilson_interval(0.9, samples)
    shares = np.random.default_rng(0).binomial(samples, 0.9, 20_000) / samples
    held = [least <= 0.9 <= most for least, most in (wilson_interval(share, samples) for share in shares)]
    assert 0.85 < np.mean(held) < 0.96 and low < 0.9 < high


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (44.66, "44.7 dB"),
        (60.0, "60.0 dB"),
        (79.9, "more than 60 dB"),
        (math.inf, "more than 60 dB"),
        (-math.inf, "less than -60 dB"),
        (math.nan, "no ratio"),
    ],
)
def test_ratios_that_no_8_bits_reach_are_not_printed(ratio, words):
    assert decibel_words(ratio) == words


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_that_processors_flush_are_silent(dtype):
    assert is_silent(np.zeros(3, dtype))
    assert is_silent(np.zeros(0, dtype))
    assert is_silent(np.array([1e-39, -1e-40], dtype))
    assert not is_silent(np.array([0.0, -1e-6], dtype))
    assert not is_silent(np.array([np.inf], dtype))
