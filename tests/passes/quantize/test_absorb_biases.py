import numpy as np
import onnx_ir as ir
import pytest

from passes.quantize import absorb_biases
from passes.quantize.absorb_biases import ChannelMoments
from passes.quantize.equalize_channels import EqualizeChannels, Equalized
from tests import models
from tests.quantizing import every_value

TOLERANCE = 5e-6  # of the output's magnitude

NETWORKS = {
    "convolutions": (
        "4,7,7",
        "float[6,4,3,3] a, float[6] b, float[5,6,3,3] c, float[5] d",
        "Conv(x, a, b)",
        "Conv(r, c, d)",
    ),
    "groups": (
        "4,7,7",
        "float[6,2,1,1] a, float[6] b, float[3,2,2,2] c, float[3] d",
        "Conv<group=2>(x, a, b)",
        "Conv<group=3, dilations=[2,2]>(r, c, d)",
    ),
    "from transposed": (
        "4,5,5",
        "float[4,6,2,2] a, float[6] b, float[6,1,2,2] c, float[6] d",
        "ConvTranspose(x, a, b)",
        "Conv<group=6>(r, c, d)",
    ),
    "matrices": ("7", "float[7,6] a, float[6] b, float[5,6] c, float[5] d", "Gemm(x, a, b)", "Gemm<transB=1>(r, c, d)"),
}


def build(name: str, between: str = "Relu(h)") -> ir.Model:
    shape, weights, first, second = NETWORKS[name]
    return network(shape, weights, first, between, second)


def network(shape: str, weights: str, first: str, between: str, second: str) -> ir.Model:
    """Two layers with high biases in the first, 15 and more: hardly anything is negative there."""
    rank = "ABCD"[: len(shape.split(",")) + 1]
    return models.graph(
        f"""g (float[N,{shape}] x) => (float[{",".join(rank)}] y) <{weights}, float[6,1,1] slope>
        {{ [first] h = {first} [f] r = {between} [second] y = {second} }}""",
        weights={"b": 15.0 + np.arange(6)} if "float[6] b" in weights else None,
    )


def moments(model: ir.Model, *, deviations: float = 1.0) -> dict[str, ChannelMoments]:
    found = every_value(model, models.random_feeds(ir.to_proto(model), batch=64))
    return {
        name: ChannelMoments(
            mean=value.mean(axes, dtype=np.float64), deviation=deviations * value.std(axes, dtype=np.float64)
        )
        for name, value in found.items()
        if name in ("h", "r") and (axes := tuple(i for i in range(value.ndim) if i != 1))
    }


def absorb(model: ir.Model, known: dict[str, ChannelMoments]) -> Equalized:
    """Absorb without equalising: the pass has run before."""
    EqualizeChannels()(model)
    return EqualizeChannels(known).call(model)


def equalized(name: str) -> ir.Model:
    model = build(name)
    EqualizeChannels()(model)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_changes_where_no_value_is_below_what_was_absorbed(name):
    model = equalized(name)
    before = model.clone()
    feeds = models.random_feeds(ir.to_proto(before))
    lowest = every_value(before, feeds)["h"]
    lowest = lowest.min(tuple(i for i in range(lowest.ndim) if i != 1)).astype(np.float64)
    wanted = np.maximum(lowest, 0.0)
    assert wanted.any()
    known = {"h": ChannelMoments(mean=wanted + 3.0, deviation=np.ones(6))}  # mean - 3 deviations = the lowest value
    outcome = EqualizeChannels(known).call(model)
    assert outcome.modified
    np.testing.assert_allclose(
        model.graph.initializers["b"].const_value.numpy(),
        before.graph.initializers["b"].const_value.numpy() - wanted,
        rtol=1e-5,
        atol=1e-5,
    )
    assert models.largest_difference(before, model) < TOLERANCE


def test_what_lies_below_comes_out_as_if_it_were_what_was_absorbed():
    model = equalized("convolutions")
    before = model.clone()
    known = moments(before, deviations=0.2)  # more is absorbed than should be, so that the cut is seen
    EqualizeChannels(known).call(model)
    excess = np.maximum(known["h"].mean - 3.0 * known["h"].deviation, 0.0).astype(np.float32)
    feeds = models.random_feeds(ir.to_proto(before))
    got, inner = every_value(model, feeds), every_value(before, feeds)["h"]
    assert (inner < excess[:, None, None]).any()
    np.testing.assert_allclose(
        got["r"] + excess[:, None, None], np.maximum(inner, excess[:, None, None]), rtol=1e-5, atol=1e-5
    )
    assert 1e-4 < models.largest_difference(before, model) < 0.2


def test_a_real_spread_loses_next_to_nothing_and_lowers_the_range():
    model = equalized("convolutions")
    before = model.clone()
    known = moments(before)
    assert EqualizeChannels(known).call(model).modified
    feeds = models.random_feeds(ir.to_proto(before), batch=16, seed=1)
    ranges = [every_value(other, feeds)["r"].max() for other in (before, model)]
    assert ranges[1] < 0.8 * ranges[0]
    assert models.largest_difference(before, model) < 0.01


def test_a_second_run_with_the_moments_that_came_back_changes_nothing():
    model = equalized("convolutions")
    outcome = EqualizeChannels(moments(model)).call(model)
    assert outcome.modified and not outcome.refusals[1:]
    measured = moments(model)
    for name in ("h", "r"):
        np.testing.assert_allclose(outcome.moments[name].mean, measured[name].mean, rtol=0.02)
        np.testing.assert_allclose(outcome.moments[name].deviation, measured[name].deviation, rtol=0.02)
    assert not EqualizeChannels(outcome.moments).call(model).modified


def test_equalising_comes_first_and_scales_the_moments():
    model = build("convolutions")
    before, known = model.clone(), moments(model)
    outcome = EqualizeChannels(known).call(model)
    stepwise = build("convolutions")
    EqualizeChannels()(stepwise)
    EqualizeChannels(moments(stepwise)).call(stepwise)
    for name in ("a", "b", "c", "d"):
        np.testing.assert_allclose(
            model.graph.initializers[name].const_value.numpy(),
            stepwise.graph.initializers[name].const_value.numpy(),
            rtol=1e-3,
            atol=1e-4,
        )
    assert outcome.modified and models.largest_difference(before, model) < 0.01


def test_without_moments_and_with_low_biases_nothing_is_absorbed():
    model = equalized("convolutions")
    assert not EqualizeChannels().call(model).modified
    low = {"h": ChannelMoments(mean=np.full(6, 2.9), deviation=np.ones(6))}
    outcome = EqualizeChannels(low).call(model)
    assert not outcome.modified
    np.testing.assert_array_equal(outcome.moments["h"].mean, low["h"].mean)


SHAPE, A, C = "4,7,7", "float[6,4,1,1] a, float[6] b", "float[5,6,3,3] c, float[5] d"


@pytest.mark.parametrize(
    ("shape", "weights", "layers", "reason"),
    [
        (SHAPE, f"{A}, {C}", ("Conv(x, a, b)", "Relu(h)", "Conv<pads=[1,1,1,1]>(r, c, d)"), "pads with zeros"),
        (SHAPE, f"{A}, {C}", ("Conv(x, a, b)", "Relu(h)", 'Conv<auto_pad="SAME_UPPER">(r, c, d)'), "pads with zeros"),
        (SHAPE, f"{A}, {C}", ("Conv(x, a, b)", "PRelu(h, slope)", "Conv(r, c, d)"), "no Relu stands between"),
        (SHAPE, f"{A}, {C}", ("Conv(x, a, b)", "Relu(h)", "Conv(r, c)"), "'second' has no constant bias"),
        (SHAPE, f"{A}, {C}", ("Conv(x, a)", "Relu(h)", "Conv(r, c, d)"), "'first' has no constant bias"),
        (
            SHAPE,
            f"{A}, float[6,5,2,2] c, float[5] d",
            ("Conv(x, a, b)", "Relu(h)", "ConvTranspose(r, c, d)"),
            "reads every tap",
        ),
        (
            "4",
            "float[4,6] a, float[6] b, float[6,5] c, float[5] d",
            ("Gemm(x, a, b)", "Relu(h)", "Gemm<alpha=0.5>(r, c, d)"),
            "alpha or beta of 'second'",
        ),
    ],
)
def test_what_cannot_be_absorbed_stays_and_says_why(shape, weights, layers, reason):
    model = network(shape, weights, *layers)
    EqualizeChannels()(model)
    before = model.clone()
    outcome = EqualizeChannels({"h": ChannelMoments(mean=np.full(6, 9.0), deviation=np.ones(6))}).call(model)
    assert not outcome.modified
    refusal = outcome.refusals[-1]
    assert refusal.where == "first" and refusal.reason.startswith("its high bias stays") and reason in refusal.reason
    assert models.largest_difference(before, model) == 0.0


def test_the_comparison_sees_a_bias_that_is_not_made_up_for_in_full(monkeypatch):
    model = equalized("convolutions")
    before, known = model.clone(), moments(model)
    right = absorb_biases.by_channels
    monkeypatch.setattr(absorb_biases, "by_channels", lambda layer, weight: 0.9 * right(layer, weight))
    EqualizeChannels(known).call(model)
    assert models.largest_difference(before, model) > 0.02
