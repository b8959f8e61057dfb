"""What is kept of boxes, texts and decisions on made-up inputs, and what is said of real ones."""

import math

import numpy as np
import pytest

from zsq_compile.metrics import Z90, logistic
from zsq_compile.tasks.compare_outputs import compare_outputs
from zsq_compile.tasks.task import OutputMeaning, Task
from zsq_compile.verification.agreement_estimate import AgreementEstimate, Family
from zsq_compile.verification.measure_families import compare_families, compare_family, compare_parts
from zsq_compile.verification.real_family import lower_by_real
from zsq_compile.verification.task_estimate import FEWEST, TaskFit, estimate_task, kept_odds

FIT = TaskFit(shift=0.5, slope=0.8, spread=0.6, assumed_spread=1.2)
VOICE = Task(
    kind="decisions",
    reason="t",
    outputs=(OutputMeaning(name="speech", role="probabilities", reason="t", scores="probabilities"),),
)


def family(kept: float | None, answers: int, samples: int = 1000, name: str = "prior") -> Family:
    return Family(
        name=name, samples=samples, sqnr_db=20.0, measure="boxes with IoU above 0.9", kept=kept, answers=answers
    )


def odds(share: float) -> float:
    return math.log(share / (1.0 - share))


def test_families_count_by_their_answers_and_silent_ones_not_at_all() -> None:
    """Closed form: 90 of 100 and 10 of 20 kept, with half an answer on either side."""
    found = kept_odds([family(0.9, 100), family(0.5, 20), family(None, 0)])
    assert found == pytest.approx((math.log(100.5 / 20.5), math.sqrt(1 / 100.5 + 1 / 20.5)))


def test_answers_of_one_sample_are_one_observation() -> None:
    many, few = kept_odds([family(0.75, 400)]), kept_odds([family(0.75, 400, samples=4)])
    assert many is not None and few is not None
    assert few[0] == many[0]
    assert few[1] == pytest.approx(math.sqrt(1 / 3.5 + 1 / 1.5))


def test_the_interval_is_shift_slope_and_spread_on_the_scale_of_log_odds() -> None:
    families = [family(0.9, 100)]
    found = kept_odds(families)
    assert found is not None
    for assumed, spread in (False, FIT.spread), (True, FIT.assumed_spread):
        made = estimate_task(families, "t", assumed=assumed, fit=FIT)
        assert made.estimate == pytest.approx(logistic(FIT.shift + FIT.slope * found[0]))
        assert made.low is not None and made.estimate is not None
        assert odds(made.estimate) - odds(made.low) == pytest.approx(Z90 * math.hypot(spread, FIT.slope * found[1]))
        assert made.measure == "boxes with IoU above 0.9" and "boxes" in made.describe()


@pytest.mark.parametrize("families", [[], [family(None, 0)], [family(1.0, FEWEST - 1)]])
def test_a_network_that_says_nothing_has_no_estimate(families: list[Family]) -> None:
    made = estimate_task(families, "t")
    assert (made.estimate, made.low, made.held) == (None, None, None)
    assert made.reason is not None and made.reason in made.describe()


def test_a_family_is_compared_by_what_the_network_is_for() -> None:
    """Oracle: the comparison of all samples at once."""
    rng = np.random.default_rng(0)
    before = {"speech": rng.random((64, 1), np.float32)}
    after = {"speech": np.clip(before["speech"] + 0.1 * rng.standard_normal((64, 1)), 0, 1).astype(np.float32)}
    whole = compare_outputs(VOICE, before, after)
    parts = [
        ({"speech": before["speech"][k : k + 16]}, {"speech": after["speech"][k : k + 16]}) for k in (0, 16, 32, 48)
    ]
    found = compare_parts("f", parts, VOICE)
    assert (found.measure, found.answers, found.samples) == (whole.measure, 64, 64)
    assert found.kept == pytest.approx(whole.kept)
    assert found.agreement is None and found.flips is None
    assert compare_families({"f": before}, {"f": after}, VOICE)[0].kept == pytest.approx(whole.kept)
    silent = {"speech": np.full((8, 1), 0.01, np.float32)}
    assert compare_family("s", silent, silent, VOICE).kept is None


def test_outputs_that_were_left_out_are_not_compared() -> None:
    maps = {"maps": np.ones((4, 2, 2), np.float32)}
    found = compare_family("f", maps, maps, VOICE)
    assert found.measure is None and found.samples == 4
    assert estimate_task([found], "t").estimate is None


def test_a_classifier_is_estimated_by_its_classes_whether_the_task_is_told_or_not() -> None:
    rng = np.random.default_rng(0)
    scores = {"logits": rng.standard_normal((64, 10)).astype(np.float32)}
    others = {"logits": (scores["logits"] + 0.1 * rng.standard_normal((64, 10))).astype(np.float32)}
    assert compare_family("f", scores, others, Task(kind="classification", reason="t")) == compare_family(
        "f", scores, others
    )


def test_real_inputs_lower_the_estimate_of_a_task() -> None:
    made = AgreementEstimate(estimate=0.97, low=0.94, high=0.985, calibration_source="t", families=())
    found = lower_by_real(made, family(0.5, 100, name="real inputs"), 0.4)
    assert found.low is not None and found.low < 0.5 and found.estimate == pytest.approx(0.94)
    assert lower_by_real(made, family(1.0, 100, name="real inputs"), 0.4).estimate == made.estimate
