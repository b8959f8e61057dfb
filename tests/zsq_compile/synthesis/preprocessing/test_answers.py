"""A network that sees a mark at one scale alone: its answers to pictures with the mark settle that scale."""

from dataclasses import replace

import numpy as np
import pytest

from tests.models import graph
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import Preprocessing, usual_preprocessings
from zsq_compile.synthesis.preprocessing.answers import divergences, refine_by_answers
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork

SPEC = InputSpec(name="x", shape=(None, 3, 8, 8), dtype=np.dtype(np.float32), layout="NCHW", kind="picture")
WAYS = {one.name: one for one in usual_preprocessings(3)}
RED = np.asarray([1.0, -1.0, -1.0], np.float32).reshape(1, 3, 1, 1)


def network(head: str) -> TrialNetwork:
    """Fire where a pixel of 0..255 is far redder than it is green and blue."""
    text = f"""net (float[N,3,8,8] x) => (float[N,{"2" if "Concat" in head else "1,8,8"}] y)
        <float[1,3,1,1] w, float[1] b, float[1] zero>
        {{ c = Conv(x, w, b) {head} }}"""
    weights = {"w": RED, "b": np.asarray([-200.0], np.float32), "zero": np.zeros(1, np.float32)}
    return TrialNetwork(model=graph(text, weights=weights), spec=SPEC, others={})


DETECTOR = "y = Sigmoid(c)"
CLASSIFIER = "p = GlobalMaxPool(c) f = Flatten(p) z = Mul(f, zero) y = Concat<axis=1>(f, z)"


def pictures(*, marked: bool) -> np.ndarray:
    made = np.random.default_rng(0).uniform(0.3, 0.7, (4, 3, 8, 8)).astype(np.float32)
    if marked:
        made[:, :, 3, 4] = (1.0, 0.0, 0.0)
    return made


def likely(names: list[str], weights: list[float]) -> Posterior:
    return Posterior.of([WAYS[name] for name in names], weights)


@pytest.mark.parametrize("head", [DETECTOR, CLASSIFIER])
def test_answers_differ_most_under_the_right_scale(head: str) -> None:
    ways: list[Preprocessing] = list(WAYS.values())
    found = divergences(network(head), pictures(marked=True), pictures(marked=False), ways)
    assert found is not None
    assert ways[int(found.argmax())].name == "byte"
    assert sorted(found)[-1] > sorted(found)[-2] + 1.0
    np.testing.assert_allclose(
        divergences(network(head), pictures(marked=False), pictures(marked=False), ways), 0.0, atol=1e-3
    )


def test_answers_outweigh_what_is_likely_and_nothing_else_changes() -> None:
    before = likely(["imagenet", "byte", "unit"], [0.7, 0.2, 0.1])
    real, drawn = pictures(marked=True), pictures(marked=False)
    after = refine_by_answers(network(DETECTOR), before, real, drawn, 1)
    assert after.best.name == "byte" and after.best.source == "inferred"
    assert not after.is_open
    assert sum(one.probability for one in after.hypotheses) == pytest.approx(1.0)
    silent = refine_by_answers(network(DETECTOR), before, drawn, drawn, 1)
    for one, other in zip(silent.hypotheses, before.hypotheses, strict=True):
        assert one.preprocessing.name == other.preprocessing.name
        assert one.probability == pytest.approx(other.probability, abs=1e-3)


@pytest.mark.parametrize(("odds", "source"), [([0.52, 0.475, 0.005], "inferred"), ([0.5, 0.2, 0.3], "assumed")])
def test_the_order_of_channels_is_no_doubt_of_the_scale(odds: list[float], source: str) -> None:
    byte, unit = (one for one in usual_preprocessings(3) if one.name in ("byte", "unit"))
    ways = [replace(byte, channel_order="bgr"), byte, unit]
    drawn = pictures(marked=False)  # which tell nothing
    after = refine_by_answers(network(DETECTOR), Posterior.of(ways, odds), drawn, drawn, 1)
    assert after.best.source == source
    assert after.best.channel_order == "bgr"
    assert after.is_open == (source == "assumed")
    assert after.share(bgr=True) == pytest.approx(odds[0], abs=2e-3)


def test_networks_without_answers_tell_nothing() -> None:
    before = likely(["imagenet", "byte"], [0.7, 0.3])
    text = "net (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Neg(x) }"
    plain = TrialNetwork(model=graph(text), spec=SPEC, others={})
    assert refine_by_answers(plain, before, pictures(marked=True), pictures(marked=False), 1) == before
