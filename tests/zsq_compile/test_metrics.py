import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsq_compile.metrics import agreement, class_axis, share_beyond, sqnr_db, top1


def test_sqnr_is_the_ratio_of_powers():
    reference = np.float32([3, 4])
    assert sqnr_db(reference, reference + np.float32([0.3, 0.4])) == pytest.approx(20.0, abs=1e-5)
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(np.zeros(2), np.ones(2)) == -math.inf


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


def test_agreement_counts_every_decision():
    a = np.float32([[1, 0], [0, 1], [1, 0], [0, 1]])
    b = np.float32([[1, 0], [0, 1], [0, 1], [0, 1]])
    assert agreement(a, b) == 0.75
    # The same decisions as four pixels of one dense output, classes on axis 1.
    assert agreement(a.T.reshape(1, 2, 2, 2), b.T.reshape(1, 2, 2, 2), axis=1) == 0.75
    assert agreement(np.int64([1, 2, 3]), np.int64([1, 2, 4])) == pytest.approx(2 / 3)


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
