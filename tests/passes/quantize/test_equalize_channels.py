import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.quantize import equalize_channels
from passes.quantize.absorb_biases import ChannelMoments
from passes.quantize.equalize_channels import EqualizeChannels, Equalized
from passes.quantize.layer_pairs import find_pairs
from passes.weight_layout import by_channels
from tests import models
from tests.quantizing import every_value

TOLERANCE = 5e-6  # of the output's magnitude: float32 rounding of a few layers' weights
BALANCED = 2e-3  # what the pass calls equal

PAIRS = {
    "convolutions": ("4,7,7", "float[6,4,3,3] a, float[6] b, float[5,6,3,3] c", "Conv(x, a, b)", "Conv(r, c)"),
    "groups into other groups": (
        "4,7,7",
        "float[6,2,3,3] a, float[6] b, float[9,2,1,1] c",
        "Conv<group=2>(x, a, b)",
        "Conv<group=3>(r, c)",
    ),
    "depthwise, twice the channels": (
        "4,7,7",
        "float[8,1,3,3] a, float[8] b, float[5,8,1,1] c",
        "Conv<group=4>(x, a, b)",
        "Conv(r, c)",
    ),
    "into depthwise": (
        "4,7,7",
        "float[6,4,1,1] a, float[6,1,3,3] c",
        "Conv(x, a)",
        "Conv<group=6, pads=[1,1,1,1]>(r, c)",
    ),
    "one dimension": ("4,9", "float[6,4,3] a, float[6] b, float[5,6,3] c", "Conv(x, a, b)", "Conv(r, c)"),
    "transposed": (
        "4,5,5",
        "float[4,3,2,2] a, float[6] b, float[6,5,2,2] c",
        "ConvTranspose<group=2, strides=[2,2]>(x, a, b)",
        "ConvTranspose(r, c)",
    ),
    "into transposed groups": (
        "4,5,5",
        "float[6,4,2,2] a, float[6,2,2,2] c",
        "Conv(x, a)",
        "ConvTranspose<group=3, strides=[2,2]>(r, c)",
    ),
    "matrices": (
        "7",
        "float[7,6] a, float[6] b, float[5,6] c, float[5] d",
        "Gemm<alpha=0.5, beta=2.0>(x, a, b)",
        "Gemm<transB=1>(r, c, d)",
    ),
    "one number for all biases": (
        "7",
        "float[6,7] a, float b, float[6,5] c",
        "Gemm<transB=1>(x, a, b)",
        "MatMul(r, c)",
    ),
    "a bias of its own for every row": ("7", "float[7,6] a, float[3,1] b, float[6,5] c", "Gemm(x, a, b)", "Gemm(r, c)"),
    "products of rank 3": ("3,7", "float[7,6] a, float[6,5] c", "MatMul(x, a)", "MatMul(r, c)"),
}


def uneven(text: str, *, seed: int = 0) -> onnx.ModelProto:
    """A model whose weights differ from channel to channel by factors of up to a hundred, along both axes."""
    model = models.parse(text, seed=seed)
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim >= 2:
            factors = [
                np.exp(rng.uniform(-2.3, 2.3, (1,) * i + (array.shape[i],) + (1,) * (array.ndim - i - 1)))
                for i in (0, 1)
            ]
            tensor.CopyFrom(
                onnx.numpy_helper.from_array((array * factors[0] * factors[1]).astype(np.float32), tensor.name)
            )
    return model


def pair_of(name: str, between: str = "Relu(h)", *, seed: int = 0) -> onnx.ModelProto:
    shape, weights, first, second = PAIRS[name]
    batch = 3 if "row" in name else "N"
    rank = "ABCD"[: len(shape.split(",")) + 1]
    relu = f"[f] r = {between}" if between else ""
    second = second if between else second.replace("(r,", "(h,")
    return uneven(
        f"""g (float[{batch},{shape}] x) => (float[{",".join(rank)}] y) <{weights}, float[6,1,1] slope, float[1] one>
        {{ [first] h = {first} {relu} [second] y = {second} }}""",
        seed=seed,
    )


CHAIN = """chain (float[N,3,9,9] x) => (float[N,5] logits)
    <float[8,3,3,3] w0, float[8] b0, float[8,1,3,3] w1, float[8] b1, float[12,8,1,1] w2, float[12] b2,
     float[12,1,1] slope, float[12,6,3,3] w3, float[12] b3, float[6,12,1,1] w4, float[6] b4, float[6,5] w5, float[5] b5>
    {
        [conv0] c0 = Conv<pads=[0,0,1,1], strides=[2,2]>(x, w0, b0)
        [relu0] r0 = Relu(c0)
        [conv1] c1 = Conv<pads=[1,1,1,1], group=8>(r0, w1, b1)
        [relu1] r1 = LeakyRelu(c1)
        [conv2] c2 = Conv(r1, w2, b2)
        [relu2] r2 = PRelu(c2, slope)
        [conv3] c3 = Conv<pads=[1,1,1,1], group=2>(r2, w3, b3)
        [conv4] c4 = Conv(c3, w4, b4)
        [pool] p = GlobalAveragePool(c4)
        [flatten] f = Flatten(p)
        [gemm] logits = Gemm(f, w5, b5)
    }"""


def equalize(model: onnx.ModelProto) -> tuple[ir.Model, Equalized]:
    after = ir.from_proto(model)
    return after, EqualizeChannels().call(after)


def imbalance(model: ir.Model) -> float:
    """Largest |log(r1 / r2)| / 2 of all channels between layers, of ranges found in plain loops."""
    worst = 0.0
    for pair in find_pairs(model.graph)[0]:
        first, second = (
            by_channels(layer, layer.inputs[1].const_value.numpy().astype(np.float64))
            for layer in (pair.first, pair.second)
        )
        ranges = [np.abs(first[g, o]).max() for g in range(first.shape[0]) for o in range(first.shape[1])]
        others = [np.abs(second[g, :, i]).max() for g in range(second.shape[0]) for i in range(second.shape[2])]
        worst = max([worst, *(abs(math.log(r / s)) / 2 for r, s in zip(ranges, others, strict=True))])
    return worst


@pytest.mark.parametrize("name", PAIRS)
def test_ranges_are_equal_and_the_function_is_the_same(name):
    before = pair_of(name)
    assert imbalance(ir.from_proto(before)) > 0.1
    after, outcome = equalize(before)
    assert outcome.modified
    assert imbalance(after) < BALANCED
    assert models.largest_difference(before, after) < TOLERANCE
    assert not EqualizeChannels().call(after).modified


@pytest.mark.parametrize("between", ["", "Identity(h)", "LeakyRelu<alpha=-0.3>(h)", "PRelu(h, slope)", "PRelu(h, one)"])
def test_everything_that_scales_may_stand_between(between):
    before = pair_of("convolutions", between)
    after, outcome = equalize(before)
    assert outcome.modified and imbalance(after) < BALANCED
    assert models.largest_difference(before, after) < TOLERANCE


def test_both_ranges_become_the_geometric_mean():
    before = pair_of("convolutions")
    arrays = {tensor.name: np.abs(onnx.numpy_helper.to_array(tensor)) for tensor in before.graph.initializer}
    wanted = np.sqrt(arrays["a"].max((1, 2, 3)) * arrays["c"].max((0, 2, 3)))
    after, _ = equalize(before)
    for name, axes in (("a", (1, 2, 3)), ("c", (0, 2, 3))):
        np.testing.assert_allclose(
            np.abs(after.graph.initializers[name].const_value.numpy()).max(axes), wanted, rtol=BALANCED
        )


def test_a_chain_is_equalised_everywhere_and_settles():
    before = uneven(CHAIN)
    assert imbalance(ir.from_proto(before)) > 1.0
    after, outcome = equalize(before)
    assert [refusal.where for refusal in outcome.refusals] == ["conv4", "gemm"]
    assert imbalance(after) < BALANCED
    assert models.largest_difference(before, after) < TOLERANCE
    second = EqualizeChannels().call(after)
    assert not second.modified and second.refusals == outcome.refusals


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_result_does_not_depend_on_the_scales_that_training_left(seed):
    one, _ = equalize(uneven(CHAIN))
    moved = ir.from_proto(uneven(CHAIN))
    rng = np.random.default_rng(seed)
    for pair in find_pairs(moved.graph)[0]:
        weights = [layer.inputs[1].const_value.numpy().copy() for layer in (pair.first, pair.second)]
        first, second = by_channels(pair.first, weights[0]), by_channels(pair.second, weights[1])
        scale = np.exp(rng.uniform(-2, 2, first.shape[0] * first.shape[1])).astype(np.float32)
        first *= scale.reshape(len(first), -1, 1, 1)
        second /= scale.reshape(len(second), 1, -1, 1)
        for layer, weight in zip((pair.first, pair.second), weights, strict=True):
            layer.inputs[1].const_value = ir.tensor(weight)
    EqualizeChannels()(moved)
    for name in ("w0", "w1", "w2", "w3", "w4"):
        got, wanted = (model.graph.initializers[name].const_value.numpy() for model in (moved, one))
        np.testing.assert_allclose(got, wanted, rtol=0.05)  # both stop within 0.2 % a sweep of the same place


@pytest.mark.parametrize("make", [models.residual, models.branches])
def test_fan_out_and_joins_are_left_alone(make):
    model = ir.from_proto(make())
    weights = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}
    outcome = EqualizeChannels().call(model)
    if make is models.branches:
        assert not outcome.modified
        for name, array in weights.items():
            np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), array)
    assert outcome.refusals
    assert models.largest_difference(make(), model) < TOLERANCE


def test_relu6_is_declined_with_the_reason():
    text = """g (float[N,3,6,6] x) => (float[N,2,6,6] y)
        <float[4,3,1,1] a, float[2,4,1,1] c, float low = {0.0}, float six = {6.0}>
        { [first] h = Conv(x, a) [clip] r = Clip(h, low, six) [second] y = Conv(r, c) }"""
    _, outcome = equalize(uneven(text))
    assert not outcome.modified
    assert (outcome.refusals[0].where, outcome.refusals[0].op_type) == ("first", "Conv")
    assert "'clip' (Clip) behind it does not scale with its input" in outcome.refusals[0].reason


@pytest.mark.parametrize("small", [0.0, 1e-9])
@pytest.mark.parametrize("side", [0, 1])
def test_dead_channels_keep_their_numbers(small, side):
    before = pair_of("convolutions")
    name = ("a", "c")[side]
    for tensor in before.graph.initializer:
        if tensor.name == name:
            array = onnx.numpy_helper.to_array(tensor).copy()
            np.moveaxis(array, side, 0)[2] *= small
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    wanted = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in before.graph.initializer}
    after, outcome = equalize(before)
    assert outcome.modified
    got = {name: value.const_value.numpy() for name, value in after.graph.initializers.items()}
    np.testing.assert_array_equal(got["a"][2], wanted["a"][2])
    np.testing.assert_array_equal(got["b"][2], wanted["b"][2])
    np.testing.assert_array_equal(got["c"][:, 2], wanted["c"][:, 2])
    assert not np.array_equal(got["a"][3], wanted["a"][3])
    assert models.largest_difference(before, after) < TOLERANCE
    assert not EqualizeChannels().call(after).modified


def test_shared_weights_stay_shared_and_shared_biases_are_copied():
    text = """g (float[N,4,6,6] x) => (float[N,4,6,6] y)
        <float[4,4,1,1] w, float[4,4,1,1] v, float[4,4,1,1] u, float[4] b>
        { [a] c = Conv(x, w, b) [f] r = Relu(c) [b] d = Conv(r, w, b) [g] s = Relu(d)
          [c] e = Conv(s, v, b) [h] t = Relu(e) [d] y = Conv(t, u, b) }"""
    before = ir.from_proto(uneven(text))
    after = before.clone()
    assert EqualizeChannels().call(after).modified
    nodes = {node.name: node for node in after.graph}
    np.testing.assert_array_equal(
        after.graph.initializers["w"].const_value.numpy(), before.graph.initializers["w"].const_value.numpy()
    )
    assert [nodes[name].inputs[1].name for name in "abcd"] == ["w", "w", "v", "u"]
    assert [nodes[name].inputs[2].name for name in "abcd"] == ["b", "b", "c.bias", "b"]
    assert [node.outputs[0].name for node in after.graph] == ["c", "r", "d", "s", "e", "t", "y"]
    assert models.largest_difference(before, after) < TOLERANCE


def test_moments_that_were_given_follow_their_values():
    before = uneven(CHAIN)
    feeds = models.random_feeds(before, batch=8)

    def moments(model: ir.Model) -> dict[str, ChannelMoments]:
        found = every_value(model, feeds)
        return {
            name: ChannelMoments(
                # no bias is high enough to be absorbed, so that only the scales change
                mean=found[name].mean((0, 2, 3), dtype=np.float64) * 0.0
                - 1.0 / (1.0 + np.arange(found[name].shape[1])),
                deviation=found[name].std((0, 2, 3), dtype=np.float64),
            )
            for name in ("c0", "r0", "c1", "c2", "c3", "c4")
        }

    model = ir.from_proto(before)
    given_moments = moments(model)
    outcome = EqualizeChannels(given_moments).call(model)
    measured = moments(model)
    for name, got in outcome.moments.items():
        np.testing.assert_allclose(got.deviation, measured[name].deviation, rtol=1e-4)
        scale = given_moments[name].deviation / measured[name].deviation
        np.testing.assert_allclose(got.mean, given_moments[name].mean / scale, rtol=1e-4)
    assert outcome.moments["c4"] is given_moments["c4"]  # nothing behind it is scaled


def test_the_comparison_sees_a_forgotten_bias(monkeypatch):
    right = equalize_channels._replace
    monkeypatch.setattr(
        equalize_channels,
        "_replace",
        lambda graph, layer, at, array, kind: at == 2 or right(graph, layer, at, array, kind),
    )
    before = pair_of("convolutions")
    after, _ = equalize(before)
    assert models.largest_difference(before, after) > 100 * TOLERANCE
