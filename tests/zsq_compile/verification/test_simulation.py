import numpy as np
import pytest

from zsq_compile.errors import ValidationError
from zsq_compile.verification.simulation import match_simulation


def noisy(reference, decibels, seed=1):
    """The reference with noise so many dB below it."""
    noise = np.random.default_rng(seed).standard_normal(reference.shape)
    return reference + noise * np.sqrt(np.sum(reference**2) / np.sum(noise**2)) * 10 ** (-decibels / 20)


@pytest.fixture
def output():
    return np.random.default_rng(0).standard_normal((100, 10))


@pytest.mark.parametrize(
    ("difference_db", "noise_db", "agrees"),
    [
        (60.0, 55.0, True),  # hardly any element is a step away
        (35.0, 20.0, True),  # many are, but far below the quantization noise
        (25.0, 20.0, False),
        (15.0, 20.0, False),
    ],
)
def test_a_difference_counts_against_the_step_and_against_the_noise(output, difference_db, noise_db, agrees):
    match = match_simulation({"y": noisy(output, difference_db)}, {"y": output}, {"y": noise_db})
    assert match is not None
    assert match.agrees == agrees
    assert match.sqnr_db == pytest.approx(difference_db, abs=0.01)
    assert match.step == pytest.approx(np.ptp(output) / 255)


def test_the_worst_output_is_reported_with_the_lowest_agreement(output):
    got = {"good": output, "bad": output, "integer": np.arange(100)}
    simulated = {"good": noisy(output, 60.0), "bad": noisy(output, 5.0), "integer": np.arange(100)}
    match = match_simulation(simulated, got, {"good": 30.0, "bad": 30.0, "integer": None})
    assert match is not None
    assert (match.output, match.agrees) == ("bad", False)
    assert match.agreement < 1.0


@pytest.mark.parametrize(("wrong", "agrees"), [(3, True), (8, False)])
def test_integers_must_be_equal_but_for_a_few(wrong, agrees):
    got = np.arange(100)
    simulated = np.where(got < wrong, got + 1, got)
    match = match_simulation({"y": simulated}, {"y": got}, {"y": None})
    assert match is not None
    assert (match.agrees, match.sqnr_db, match.step) == (agrees, None, 0.0)
    assert match.share_beyond_step == pytest.approx(wrong / 100)


def test_samples_that_a_fixed_batch_dropped_are_left_out(output):
    match = match_simulation({"y": output}, {"y": output[:96]}, {"y": 30.0})
    assert match is not None
    assert match.share_beyond_step == 0.0


def test_nan_does_not_agree(output):
    match = match_simulation({"y": np.full_like(output, np.nan)}, {"y": output}, {"y": 30.0})
    assert match is not None
    assert not match.agrees


def test_other_shapes_are_an_error(output):
    with pytest.raises(ValidationError, match="the simulation gives"):
        match_simulation({"y": output[:, :3]}, {"y": output}, {"y": 30.0})
    assert match_simulation({}, {"y": output}, {}) is None
