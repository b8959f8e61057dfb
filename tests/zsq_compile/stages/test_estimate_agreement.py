from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import models
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.metrics import Z90
from zsq_compile.stages.estimate_agreement import FIT, Fit, estimate_agreement, make_estimate_inputs
from zsq_compile.verification.firmness import firmness

UNIT = Preprocessing(name="given", mean=(0.0,) * 3, std=(1.0,) * 3, channel_order="rgb", source="given")
IMAGE = InputSpec(name="x", shape=(None, 3, 8, 8), dtype=np.dtype(np.float32), layout="NCHW")


@pytest.fixture
def emitted(tmp_path: Path) -> Path:
    """The network of the tests with its classifier's weights off by a tenth of their size."""
    network = models.residual()
    for tensor in network.graph.initializer:
        if tensor.name == "w3":
            weight = onnx.numpy_helper.to_array(tensor)
            off = weight * (1.0 + 0.1 * np.random.default_rng(0).standard_normal(weight.shape))
            tensor.CopyFrom(onnx.numpy_helper.from_array(off.astype(np.float32), "w3"))
    onnx.save(network, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_the_seed_decides_and_nothing_else(emitted: Path) -> None:
    first, again, other = (
        estimate_agreement(
            models.residual(), emitted, make_estimate_inputs([IMAGE], {"x": Posterior.certain(UNIT)}, seed=seed), "t"
        )
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first.families != other.families
    assert first.estimate is not None


def test_an_assumed_preprocessing_widens_the_interval_and_is_told(emitted: Path) -> None:
    given, inferred, assumed, ranked = (
        estimate_agreement(
            models.residual(), emitted, make_estimate_inputs([IMAGE], {"x": Posterior.certain(preprocessing)}), "t"
        )
        for preprocessing in (
            UNIT,
            replace(UNIT, name="unit", source="inferred"),
            replace(UNIT, name="unit", source="assumed"),
            replace(UNIT, name="unit", source="ranked"),
        )
    )
    assert given == inferred and given.proven
    assert assumed == ranked and not ranked.proven
    assert (given.held, ranked.held) == (given.estimate, ranked.low)
    assert assumed.estimate == given.estimate
    assert assumed.low < given.low < given.high < assumed.high
    assert assumed.calibration_source == "t, with an assumed input"


def test_constants_move_and_widen_the_interval_on_the_scale_of_log_odds(emitted: Path) -> None:
    """Closed form: the middle moves by shift and slope times firmness, the half width is Z90 hypot(spread, error)."""

    def odds(share: float | None) -> float:
        return float(np.log(share / (1.0 - share)))

    for source, spread in ("given", "spread"), ("assumed", "assumed_spread"):
        told = {"x": Posterior.certain(replace(UNIT, source=source))}
        inputs = make_estimate_inputs([IMAGE], told)
        made = estimate_agreement(models.residual(), emitted, inputs, "t")
        fit = Fit(shift=FIT.shift - 1.0, slope=FIT.slope + 0.5, **{spread: 2.0})
        moved_by = 0.5 * firmness((family.margin, family.classes) for family in made.families) - 1.0
        moved = inputs.estimate(made.families, "t", fit=fit)
        error = np.mean([family.error for family in made.families if family.flips])
        assert odds(moved.estimate) == pytest.approx(odds(made.estimate) + moved_by, abs=1e-9)
        assert odds(moved.high) - odds(moved.estimate) == pytest.approx(Z90 * np.hypot(2.0, error), abs=1e-9)


def test_an_input_that_is_no_picture_gets_figures_but_no_estimate(emitted: Path) -> None:
    told = estimate_agreement(models.residual(), emitted, make_estimate_inputs([IMAGE], {}), "t")
    assert told.estimate is None
    assert told.reason == "its error is known only for networks with one image input"
    assert all(family.flips is not None for family in told.families)


def test_texts_cannot_be_made_up(emitted: Path) -> None:
    texts = replace(IMAGE, dtype=np.dtype(np.str_), layout=None)
    told = estimate_agreement(models.residual(), emitted, make_estimate_inputs([texts], {}), "t")
    assert told.families == ()
    assert told.describe() == "no estimate: there are no synthetic values for an input"


def test_every_plausible_preprocessing_is_judged_and_the_interval_spans_them(emitted: Path) -> None:
    unit = replace(UNIT, name="unit", source="assumed")
    other = replace(unit, name="other", mean=(0.5,) * 3, std=(0.3,) * 3)
    posterior = Posterior.of([unit, other], [0.9, 0.1])
    told = estimate_agreement(models.residual(), emitted, make_estimate_inputs([IMAGE], {"x": posterior}), "t")
    alone = [
        estimate_agreement(models.residual(), emitted, make_estimate_inputs([IMAGE], {"x": certain}), "t")
        for certain in (Posterior.certain(replace(one, source="given")) for one in (unit, other))
    ]
    assert [one.words for one in told.hypotheses] == ["unit", "other"]
    assert [one.estimate for one in told.hypotheses] == [one.estimate for one in alone]
    assert told.low == min(one.low for one in alone)
    assert told.high == max(one.high for one in alone)
    assert told.estimate == pytest.approx(0.9 * alone[0].estimate + 0.1 * alone[1].estimate)
    assert not told.proven
    assert told.held == told.low
    assert len(told.families) == 2 * len(alone[0].families)
    assert alone[0].proven
    assert alone[0].held == alone[0].estimate
    assert alone[0].hypotheses == ()


def test_real_samples_prove_an_assumed_preprocessing_and_leave_an_open_one_open(emitted: Path) -> None:
    assumed = replace(UNIT, name="unit", source="assumed")
    told = [
        make_estimate_inputs([IMAGE], {"x": posterior}, shown=shown).proven
        for posterior, shown in (
            (Posterior.certain(assumed), False),
            (Posterior.certain(assumed), True),
            (Posterior.of([assumed, replace(assumed, name="byte")], [1.0, 1.0]), True),
        )
    ]
    assert told == [False, True, False]


def test_the_worst_is_told_of_a_network_without_classes(emitted: Path) -> None:
    ways = [replace(UNIT, name=name, source="unexplained") for name in ("unit", "other")]
    told = estimate_agreement(
        models.residual(), emitted, make_estimate_inputs([IMAGE], {"x": Posterior.of(ways, [2.0, 1.0])}), "t"
    )
    assert told.estimate is None
    assert told.reason is not None
    assert "the worst with unit" in told.describe()  # the first of equals
