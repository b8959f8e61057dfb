import numpy as np
import onnx_ir as ir
import pytest

from backends.session import open_session
from passes.batchnorm.harvest_batchnorm import folded_advice, harvest_batchnorm
from tests import models

PARAMETERS = "float[4] scale, float[4] shift, float[4] mean, float[4] variance"


def harvest(body, *, inputs="float[N,4,6,6] x", weights="float[4,4,1,1] w", values=None):
    outputs = "float[N,4,6,6] y"
    text = f"g ({inputs}) => ({outputs}) <{weights}, {PARAMETERS}> {{ {body} }}"
    return harvest_batchnorm(models.graph(text, weights=values))


def test_reads_every_batchnorm_of_a_network():
    proto = models.residual()
    statistics = harvest_batchnorm(ir.from_proto(proto))
    assert [entry.layer for entry in statistics.entries] == ["conv0", "conv1", "conv2"]
    assert [entry.input for entry in statistics.entries] == ["c0", "c1", "c2"]
    assert [entry.output for entry in statistics.entries] == ["n0", "n1", "n2"]
    assert statistics.coverage() == "BN found behind 3 of 3 convolutions"
    assert statistics.usable == statistics.entries and not statistics.refusals
    stored = {value.name: value.const_value.numpy() for value in ir.from_proto(proto).graph.initializers.values()}
    np.testing.assert_array_equal(statistics.entries[1].variance, stored["variance1"])
    np.testing.assert_array_equal(statistics.entries[1].mean, stored["mean1"])


def test_the_entry_says_what_the_node_computes():
    proto = models.conv_bn_relu()
    (entry,) = harvest_batchnorm(ir.from_proto(proto)).entries
    model = ir.from_proto(proto)
    names = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend([names["c"], names["n"]])
    values = open_session(ir.to_proto(model), threads=1).run(models.random_feeds(proto))
    column = (slice(None), None, None)
    expected = (values["c"] - entry.mean[column]) / np.sqrt(entry.variance[column] + entry.epsilon)
    expected = entry.scale[column] * expected + entry.shift[column]
    np.testing.assert_allclose(values["n"], expected, atol=2e-6)
    assert entry.epsilon == pytest.approx(0.001)
    assert np.abs(values["n"] - expected - 0.01).max() > 1e-3, "the comparison would see a wrong shift"


def test_nothing_is_changed():
    model = ir.from_proto(models.residual())
    before = ir.to_proto(model).SerializeToString()
    harvest_batchnorm(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_parameters_may_come_from_chains_of_constants():
    body = """
        s = ConstantOfShape<value = float[1] {2.0}>(four)
        m0 = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
        m1 = Unsqueeze(m0, zero)
        m2 = Squeeze(m1, zero)
        m = Identity(m2)
        h = Constant<value = double[4] {0.0, 1.0, 0.5, 0.25}>()
        shift32 = Cast<to=1>(h)
        c = Conv(x, w)
        y = BatchNormalization(c, s, shift32, m, variance)
    """
    weights = "float[4,4,1,1] w, int64[1] four = {4}, int64[1] zero = {0}"
    (entry,) = harvest(body, weights=weights).entries
    np.testing.assert_array_equal(entry.scale, [2, 2, 2, 2])
    np.testing.assert_array_equal(entry.mean, [1, 2, 3, 4])
    np.testing.assert_array_equal(entry.shift, [0, 1, 0.5, 0.25])
    assert entry.mean.dtype == entry.shift.dtype == np.float32


def test_shared_parameters_are_read_for_each_node():
    statistics = harvest(
        "[a] c = Conv(x, w) n = BatchNormalization(c, scale, shift, mean, variance)"
        "[b] d = Conv(n, w) y = BatchNormalization(d, scale, shift, mean, variance)"
    )
    assert [entry.layer for entry in statistics.entries] == ["a", "b"]
    np.testing.assert_array_equal(statistics.entries[0].mean, statistics.entries[1].mean)


@pytest.mark.parametrize(
    ("body", "layer"),
    [
        ("[l] c = Conv(x, w) n = Add(c, bias) y = BatchNormalization(n, scale, shift, mean, variance)", "l"),
        ("[l] c = Conv(x, w) n = Add(bias, c) y = BatchNormalization(n, scale, shift, mean, variance)", "l"),
        ("[l] c = Conv(x, w) n = Add(c, x) y = BatchNormalization(n, scale, shift, mean, variance)", None),
        ("[l] c = Conv(x, w) n = Relu(c) y = BatchNormalization(n, scale, shift, mean, variance)", None),
        ("y = BatchNormalization(x, scale, shift, mean, variance)", None),
        ("n = Concat<axis=1>(x) y = BatchNormalization(n, scale, shift, mean, variance)", None),
        ("[l] c = Conv(x, v) y = BatchNormalization(c, scale, shift, mean, variance)", None),
    ],
)
def test_the_layer_before_is_found_through_a_bias_only(body, layer):
    statistics = harvest(
        body, inputs="float[N,4,6,6] x, float[4,4,1,1] v", weights="float[4,4,1,1] w, float[4,1,1] bias"
    )
    (entry,) = statistics.entries
    assert entry.layer == layer
    assert statistics.usable == (entry,)
    assert statistics.layers_covered == (layer is not None)
    assert ("1 more elsewhere" in statistics.coverage()) == (layer is None)


def test_fully_connected_layers_count_where_there_is_no_convolution():
    text = f"""g (float[N,3] x) => (float[N,4] y) <float[4,3] w, {PARAMETERS}>
        {{ [fc] c = Gemm<transB=1>(x, w) y = BatchNormalization(c, scale, shift, mean, variance) }}"""
    statistics = harvest_batchnorm(models.graph(text))
    assert statistics.entries[0].layer == "fc"
    assert statistics.coverage() == "BN found behind 1 of 1 fully connected layers"


def test_nodes_that_cannot_be_read_are_refused_with_the_reason():
    training = harvest("c = Conv(x, w) y, a, b = BatchNormalization<training_mode=1>(c, scale, shift, mean, variance)")
    assert not training.entries and "training mode" in training.refusals[0].reason
    computed = harvest(
        "c = Conv(x, w) m = ReduceMean<keepdims=0>(x, axes) y = BatchNormalization(c, scale, shift, m, variance)",
        weights="float[4,4,1,1] w, int64[3] axes = {0, 2, 3}",
    )
    assert not computed.entries and "mean is not constant" in computed.refusals[0].reason
    body = "c = Conv(x, w) y = BatchNormalization(c, scale, shift, mean, variance)"
    infinite = harvest(body, values={"mean": np.array([0, np.inf, 0, 0])})
    assert "not finite" in infinite.refusals[0].reason
    negative = harvest(body, values={"variance": np.array([1, -1, 1, 1])})
    assert "negative" in negative.refusals[0].reason


def test_dead_channels_are_flagged():
    body = "c = Conv(x, w) y = BatchNormalization(c, scale, shift, mean, variance)"
    (entry,) = harvest(body, values={"variance": np.array([2.0, 1e-12, 1e-6, 3.0])}).entries
    np.testing.assert_array_equal(entry.dead, [False, True, True, False])
    (entry,) = harvest(body, values={"variance": np.array([1e-38, 1e-38, 1e-38, 1.0])}).entries
    np.testing.assert_array_equal(entry.dead, [True, True, True, False])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"variance": np.full(4, 1e-20)}, "variances are about 0"),
        ({"mean": np.zeros(4), "variance": np.ones(4)}, "same moments"),
        ({"mean": np.full(4, 0.02), "variance": np.full(4, 0.02)}, "same moments"),
        ({"mean": 1e-7 * np.arange(4)}, "never negative"),
    ],
)
def test_statistics_that_no_training_leaves_behind_are_not_usable(values, reason):
    body = "r = Relu(x) [l] c = Conv(r, w) [bn] y = BatchNormalization(c, scale, shift, mean, variance)"
    statistics = harvest(body, values=values)
    assert statistics.degenerate == ("bn",) and not statistics.usable and len(statistics.entries) == 1
    assert reason in statistics.refusals[0].reason and statistics.refusals[0].where == "bn"
    assert "1 of them unusable" in statistics.coverage()


def test_means_of_about_zero_are_right_behind_a_linear_value():
    body = "[l] c = Conv(x, w) y = BatchNormalization(c, scale, shift, mean, variance)"
    assert not harvest(body, values={"mean": 1e-7 * np.arange(4)}).degenerate


def test_the_advice_names_the_flags_of_both_exporters():
    for flag in (
        "--checkpoint",
        "--bn-stats",
        "dynamo=False",
        "TrainingMode.PRESERVE",
        "do_constant_folding=False",
        "dynamo=True",
        "optimize=False",
    ):
        assert flag in folded_advice()
