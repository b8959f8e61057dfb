from dataclasses import replace

import numpy as np
import pytest

from zsq_compile.data.hypotheses import MOST, deal, plausible_together
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import usual_preprocessings

WAYS = {one.name: one for one in usual_preprocessings(3)}
OPEN = Posterior.of([WAYS["unit"], WAYS["imagenet"], WAYS["byte"]], [0.6, 0.39, 0.01])


def gray(posterior: Posterior) -> Posterior:
    ways = [replace(one.preprocessing, mean=(0.5,), std=one.preprocessing.std[:1]) for one in posterior.hypotheses]
    return Posterior.of(ways, [one.probability for one in posterior.hypotheses])


def test_plausible_preprocessings_of_all_inputs_together() -> None:
    one = plausible_together({"x": OPEN})
    assert [found.words() for found in one] == ["unit", "imagenet"]
    assert [found.probability for found in one] == pytest.approx([0.6 / 0.99, 0.39 / 0.99])
    both = plausible_together({"x": OPEN, "y": gray(OPEN), "z": Posterior.certain(WAYS["byte"])})
    assert len(both) == 4
    assert [one.name for one in both[0].preprocessing.values()] == ["unit", "unit", "byte"]
    assert sum(found.probability for found in both) == pytest.approx(1.0)
    assert [found.probability for found in both] == sorted((found.probability for found in both), reverse=True)


def test_no_more_hypotheses_than_are_worth_a_run() -> None:
    signal = Posterior.of([replace(one.preprocessing, layout=None) for one in OPEN.hypotheses], [0.6, 0.39, 0.01])
    assert len(plausible_together(dict.fromkeys("abcd", signal))) == MOST
    assert len(plausible_together({str(number): signal for number in range(24)})) == MOST


def test_pictures_of_one_network_are_prepared_alike() -> None:
    other = Posterior.of([WAYS["imagenet"], WAYS["unit"], WAYS["byte"]], [0.5, 0.49, 0.01])
    three = plausible_together({"a": OPEN, "b": Posterior.certain(WAYS["byte"]), "c": other})
    assert [one.preprocessing for one in three] == [
        {"a": WAYS[name], "b": WAYS["byte"], "c": WAYS[name]} for name in ("unit", "imagenet")
    ]
    odds = 0.6 * 0.49, 0.39 * 0.5
    assert [one.probability for one in three] == pytest.approx([one / sum(odds) for one in odds])


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
