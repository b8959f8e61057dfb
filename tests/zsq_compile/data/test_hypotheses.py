import numpy as np
import pytest

from zsq_compile.data.hypotheses import MOST, deal, plausible_together
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import usual_preprocessings

WAYS = {one.name: one for one in usual_preprocessings(3)}
OPEN = Posterior.of([WAYS["unit"], WAYS["imagenet"], WAYS["byte"]], [0.6, 0.39, 0.01])


def test_plausible_preprocessings_of_all_inputs_together() -> None:
    one = plausible_together({"x": OPEN})
    assert [found.words() for found in one] == ["unit", "imagenet"]
    assert [found.probability for found in one] == pytest.approx([0.6 / 0.99, 0.39 / 0.99])
    both = plausible_together({"x": OPEN, "y": OPEN, "z": Posterior.certain(WAYS["byte"])})
    assert len(both) == 4
    assert both[0].preprocessing == {"x": WAYS["unit"], "y": WAYS["unit"], "z": WAYS["byte"]}
    assert sum(found.probability for found in both) == pytest.approx(1.0)
    assert [found.probability for found in both] == sorted((found.probability for found in both), reverse=True)


def test_no_more_hypotheses_than_are_worth_a_run() -> None:
    assert len(plausible_together({name: OPEN for name in "abcd"})) == MOST


def test_nothing_to_prepare_is_one_hypothesis() -> None:
    (only,) = plausible_together({})
    assert only.probability == 1.0
    assert not only.preprocessing


@pytest.mark.parametrize("feed", [1, 4])
def test_samples_are_dealt_in_proportion_and_all_get_some(feed: int) -> None:
    dealt = deal([0.9, 0.07, 0.03], 240, feed)
    counts = np.bincount(dealt)
    wanted = 240 * (0.75 * np.array([0.9, 0.07, 0.03]) + 0.25 / 3)
    assert np.abs(counts - wanted).max() <= feed
    assert all(len(set(part)) == 1 for part in dealt.reshape(-1, feed))
    halves = [np.bincount(part, minlength=3) for part in (dealt[:120], dealt[120:])]
    assert np.abs(halves[0] - halves[1]).max() <= 2 * feed
