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
    ("noise_db", "difference_db", "close", "broken"),
    [
        (55.0, 60.0, True, False),  # hardly any element is a step away
        (20.0, 35.0, True, False),  # many are, but far below the quantization noise
        (20.0, 25.0, False, False),
        (20.0, 17.0, False, False),  # as far apart as two draws of the noise
        (20.0, 10.0, False, True),
    ],
)
def test_a_difference_counts_against_the_step_and_against_the_noise(output, noise_db, difference_db, close, broken):
    simulated = noisy(output, noise_db)
    got = noisy(simulated, difference_db, seed=2)
    match = match_simulation({"y": simulated}, {"y": got}, {"y": output})
    assert match is not None
    assert (match.close, match.broken) == (close, broken)
    assert match.sqnr_db == pytest.approx(difference_db, abs=0.5)
    assert match.margin_db == pytest.approx(difference_db - noise_db, abs=0.5)
    assert match.step == pytest.approx(np.ptp(got) / 255)


def test_the_worst_output_is_reported_with_the_lowest_agreement(output):
    wanted = {"good": noisy(output, 30.0), "bad": noisy(output, 30.0), "integer": np.arange(100)}
    got = {"good": noisy(output, 60.0), "bad": noisy(output, 5.0, seed=2), "integer": np.arange(100)}
    match = match_simulation({"good": output, "bad": output, "integer": np.arange(100)}, got, wanted)
    assert match is not None
    assert (match.output, match.broken) == ("bad", True)
    assert match.agreement < 1.0


@pytest.mark.parametrize(("wrong", "broken"), [(3, False), (8, True)])
def test_integers_must_be_equal_but_for_a_few(wrong, broken):
    got = np.arange(100)
    simulated = np.where(got < wrong, got + 1, got)
    match = match_simulation({"y": simulated}, {"y": got}, {"y": got})
    assert match is not None
    assert (match.broken, match.sqnr_db, match.margin_db, match.step) == (broken, None, None, 0.0)
    assert match.share_beyond_step == pytest.approx(wrong / 100)


def test_outputs_without_classes_hold_no_decisions(output):
    mask = output[:, None, :, None]
    match = match_simulation({"y": mask}, {"y": mask + 1e-6}, {"y": mask})
    assert match is not None
    assert match.agreement == 1.0


def test_samples_that_a_fixed_batch_dropped_are_left_out(output):
    match = match_simulation({"y": output}, {"y": output[:96]}, {"y": noisy(output[:96], 30.0)})
    assert match is not None
    assert match.share_beyond_step == 0.0


def test_nan_does_not_agree(output):
    match = match_simulation({"y": np.full_like(output, np.nan)}, {"y": output}, {"y": noisy(output, 30.0)})
    assert match is not None
    assert match.broken


def test_other_shapes_are_an_error(output):
    with pytest.raises(ValidationError, match="the simulation gives"):
        match_simulation({"y": output[:, :3]}, {"y": output}, {"y": noisy(output, 30.0)})
    assert match_simulation({}, {"y": output}, {}) is None
