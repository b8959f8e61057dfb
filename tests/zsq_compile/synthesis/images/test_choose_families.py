from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests import models
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, seeded, spec, task_of, teacher_of, trained_on
from zsq_compile.config.compile import Effort
from zsq_compile.data.preprocessing import Preprocessing, given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.progress import Remembering, Silent
from zsq_compile.synthesis.generator import AlgorithmGenerator
from zsq_compile.synthesis.generators.prior import draw_prior
from zsq_compile.synthesis.images import excitation
from zsq_compile.synthesis.images.choose_families import (
    FamilyChoice,
    choice_by_distance,
    choice_by_excitation,
    choose_families,
    family_odds,
)
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.excitation import Excitation, measure_excitation, trial_count
from zsq_compile.synthesis.images.pictures import FAMILIES, PHOTOGRAPHS, PictureFamily, draw_family

SIDE = 20
INPUT = spec(None, 1, SIDE, SIDE)
UNIT: Mapping[str, Preprocessing] = {"x": given_preprocessing(1, input_range=(0.0, 1.0))}

# Bright lines two pixels wide on a dark ground, in two directions: less than 1.5 of light about them, or nothing.
_LINE = """
    lines (float[N,1,20,20] x) => (float[N,2,8,8] found)
    <float[2,1,5,5] w0, float[2] b0, float[2,2,3,3] w1, float[2] b1>
    {
        c0 = Conv<pads=[2,2,2,2]>(x, w0, b0)
        r0 = Relu(c0)
        c1 = Conv<strides=[2,2]>(r0, w1, b1)
        r1 = Relu(c1)
        p = MaxPool<kernel_shape=[2,2], strides=[1,1]>(r1)
        found = Sigmoid(p)
    }
    """


def line_detector() -> TorchGraph:
    across = np.tile(np.array([-1.0, 0.6, 0.8, 0.6, -1.0], np.float32)[:, None], (1, 5)) / 5
    weights = {
        "w0": np.stack([across, across.T])[:, None],
        "b0": np.full(2, -1.0, np.float32),
        "w1": np.full((2, 2, 3, 3), 0.2, np.float32),
        "b1": np.full(2, -0.1, np.float32),
    }
    return TorchGraph(ir.from_proto(models.parse(_LINE, weights=weights)))


def even(activity: float = 0.0, decisions: float = 0.0) -> dict[PictureFamily, Excitation]:
    return {family: Excitation(activity=activity, decisions=decisions) for family in FAMILIES}


def test_a_network_for_strokes_gets_strokes_and_some_photographs() -> None:
    chosen = choose_families(line_detector(), [INPUT], UNIT, (), 0, Silent())["x"]
    assert max(chosen.shares, key=lambda family: chosen.shares[family]) == "strokes"
    assert chosen.shares["photographs"] >= 0.25
    assert sum(chosen.shares.values()) == pytest.approx(1.0)
    assert "strokes" in chosen.reason


@pytest.mark.parametrize("truth", ["photographs", "strokes"])
def test_statistics_of_batch_normalisation_tell_what_was_shown(truth: PictureFamily) -> None:
    pictures = draw_family(truth, 48, 1, SIDE, SIDE, seeded(99))
    teacher, statistics = teacher_of(trained_on(pictures.numpy()))
    chosen = choose_families(teacher, [INPUT], UNIT, statistics.usable, 0, Silent())["x"]
    assert max(chosen.shares, key=lambda family: chosen.shares[family]) == truth
    assert chosen.is_usual == (truth == "photographs")


def test_where_photographs_suit_samples_stay_as_they_are() -> None:
    teacher, statistics = teacher_of(trained_on(prior_images(48, 1, SIDE, SIDE, seeded(99)).numpy()))
    generator = AlgorithmGenerator("prior", draw_prior, [INPUT], UNIT["x"], Silent(), "fast")
    made = generator.synthesize(teacher, statistics, 6, seeded())
    assert torch.equal(made.inputs["x"], prior_images(6, 1, SIDE, SIDE, seeded()))
    assert made.families["x"].shares == PHOTOGRAPHS


def test_the_mixture_is_drawn_and_noted() -> None:
    progress = Remembering(Silent())
    effort: Effort = "fast"
    generator = AlgorithmGenerator("prior", draw_prior, [INPUT], UNIT["x"], progress, effort)
    made = generator.synthesize(line_detector(), NO_STATISTICS, 40, seeded())
    shares = made.families["x"].shares
    assert any(f"{100 * shares['strokes']:.0f} % strokes" in text for text in progress.texts)
    black = (made.inputs["x"] < 0.02).float().mean((1, 2, 3))
    assert 0.2 < (black > 0.5).float().mean() < 0.9  # strokes on black, but not only
    again = generator.synthesize(line_detector(), NO_STATISTICS, 40, seeded())
    assert torch.equal(made.inputs["x"], again.inputs["x"])


def test_other_algorithms_are_not_asked() -> None:
    generator = AlgorithmGenerator("noise", draw_prior, [INPUT], UNIT["x"], Silent(), "fast")
    made = generator.synthesize(line_detector(), NO_STATISTICS, 2, seeded())
    assert made.families == {}
    assert torch.equal(made.inputs["x"], prior_images(2, 1, SIDE, SIDE, seeded()))


def test_excitation_is_the_logarithm_of_the_relative_deviation() -> None:
    model = models.parse(
        "plain (float[N,1,20,20] x) => (float[N,1,20,20] y) <float[1,1,1,1] w> { c = Conv(x, w)  y = Neg(c) }",
        weights={"w": np.full((1, 1, 1, 1), 3.0, np.float32)},
    )
    found = measure_excitation(TorchGraph(ir.from_proto(model)), [INPUT], INPUT, UNIT, seeded())
    rng = seeded()
    drawn = [draw_family(family, trial_count(INPUT), 1, SIDE, SIDE, rng).double() for family in FAMILIES]
    variances = np.array([pictures.var(correction=0) for pictures in drawn])
    expected = np.log(np.sqrt(variances / variances.mean()) + 1e-3)
    np.testing.assert_allclose([found[family].activity for family in FAMILIES], expected, atol=1e-4)
    assert {one.decisions for one in found.values()} == {0.0}


def test_decisions_count_where_outputs_are_probabilities() -> None:
    found = measure_excitation(line_detector(), [INPUT], INPUT, UNIT, seeded())
    assert found["strokes"].decisions > found["photographs"].decisions + 0.2


def test_without_evidence_photographs_stay() -> None:
    assert choice_by_excitation({}).shares == PHOTOGRAPHS
    assert choice_by_excitation(even()).shares == PHOTOGRAPHS


def test_odds_are_linear_in_the_evidence() -> None:
    evidence = even() | {"pages": Excitation(activity=0.1, decisions=0.5)}
    odds = family_odds(evidence)
    more = family_odds(even() | {"pages": Excitation(activity=0.2, decisions=1.0)})
    assert odds["photographs"] == 1.0
    assert np.log(more["pages"]) - np.log(odds["pages"]) == pytest.approx(np.log(odds["pages"] / odds["faces"]))


def test_shares_follow_the_distances_and_small_ones_are_left_out() -> None:
    distances: dict[PictureFamily, float] = dict.fromkeys(FAMILIES, 5.0)
    distances |= {"photographs": 1.0, "pages": 0.1, "text lines": 0.2}
    shares = choice_by_distance(distances).shares
    assert set(shares) == {"photographs", "pages", "text lines"}
    assert shares["photographs"] == 0.25
    assert shares["pages"] == pytest.approx(4.0 * shares["text lines"])
    distances["photographs"] = 0.15
    assert choice_by_distance(distances).is_usual


def test_a_fixed_batch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excitation, "_MOST", 10)
    assert trial_count(spec(4, 1, SIDE, SIDE)) == 12
    assert trial_count(spec(None, 3, 2000, 2000)) == 6


def test_a_task_without_a_choice_takes_photographs() -> None:
    teacher, statistics = teacher_of(trained_on(prior_images(4, 1, SIDE, SIDE, seeded()).numpy()))
    assert task_of(teacher, statistics, INPUT).shares("x") == PHOTOGRAPHS
    assert FamilyChoice(shares={"photographs": 0.25, "pages": 0.75}, reason="r").describe() == (
        "25 % photographs, 75 % pages (r)"
    )
