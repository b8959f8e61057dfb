import numpy as np
import pytest

from zsq_compile.errors import QuantizationError
from zsq_compile.stages.form_quality import FormQuality, measure_form, require_no_worse
from zsq_compile.tasks.task import OutputMeaning, Task, TaskQuality

CLASSES = Task(
    kind="classification",
    reason="of the test",
    outputs=(OutputMeaning(name="y", role="class scores", reason="of the test", axis=1, scores="logits"),),
)


def with_db(signal: np.ndarray, ratios: list[float], rng: np.random.Generator) -> np.ndarray:
    """Add noise to each sample, so many decibels below it."""
    noise = rng.standard_normal(signal.shape)
    for row, (one, ratio) in enumerate(zip(signal, ratios, strict=True)):
        noise[row] *= np.linalg.norm(one) / np.linalg.norm(noise[row]) * 10.0 ** (-ratio / 20.0)
    return signal + noise


def quality(kept: float | None, count: int, ratio: float) -> FormQuality:
    task = TaskQuality(measure="texts", kept=kept, count=count, harm=1.0)
    return FormQuality(ratios={"y": ratio}, task=task)


def test_noise_is_measured_by_sample_and_over_all() -> None:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((3, 50))
    got = with_db(signal, [10.0, 20.0, 30.0], rng)
    found = measure_form(None, {"y": signal}, {"y": got}, 3)
    np.testing.assert_allclose(found.samples["y"], [10.0, 20.0, 30.0], atol=1e-6)
    wanted = 10.0 * np.log10((signal**2).sum() / ((got - signal) ** 2).sum())
    assert found.ratios["y"] == pytest.approx(wanted) and found.task is None
    assert found.order == -found.ratios["y"]


def test_equal_outputs_have_no_chance_and_no_infinity() -> None:
    signal = np.ones((2, 3), np.float32)
    found = measure_form(CLASSES, {"y": signal}, {"y": signal}, 2)
    assert found.samples["y"].tolist() == [120.0, 120.0]
    assert found.task is not None and found.task.kept == 1.0
    require_no_worse(found, found, 0.5)


@pytest.mark.parametrize(("lost", "refused"), [(0.4, False), (0.6, True)])
def test_a_steady_loss_beyond_the_margin_is_refused(lost: float, refused: bool) -> None:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((8, 400))
    present = measure_form(None, {"y": signal}, {"y": with_db(signal, [20.0] * 8, rng)}, 8)
    form = measure_form(None, {"y": signal}, {"y": with_db(signal, [20.0 - lost] * 8, rng)}, 8)
    if refused:
        with pytest.raises(QuantizationError, match=r"'y' is at 19\.4 dB"):
            require_no_worse(form, present, 0.5)
    else:
        require_no_worse(form, present, 0.5)


def test_a_loss_on_one_of_two_samples_may_be_chance() -> None:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((2, 400))
    present = measure_form(None, {"y": signal}, {"y": with_db(signal, [20.0, 20.0], rng)}, 2)
    form = measure_form(None, {"y": signal}, {"y": with_db(signal, [16.0, 20.5], rng)}, 2)
    assert form.ratios["y"] < present.ratios["y"] - 1.0
    require_no_worse(form, present, 0.5)


def test_fewer_answers_are_refused_only_beyond_chance() -> None:
    present = quality(0.9, 100, 20.0)
    require_no_worse(quality(0.85, 100, 20.0), present, 0.5)  # twice the standard error is 6 %
    with pytest.raises(QuantizationError, match=r"keeps 80.0% of texts, the present file 90.0%"):
        require_no_worse(quality(0.8, 100, 20.0), present, 0.5)


def test_noise_is_forgiven_where_more_answers_are_kept() -> None:
    require_no_worse(quality(0.95, 100, 15.0), quality(0.9, 100, 20.0), 0.5)
    with pytest.raises(QuantizationError, match=r"15\.0 dB"):
        require_no_worse(quality(None, 0, 15.0), quality(None, 0, 20.0), 0.5)
