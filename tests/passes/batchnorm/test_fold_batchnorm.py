import numpy as np
import onnx_ir as ir
import pytest

from passes.batchnorm import fold_batchnorm
from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.graph_pass import Outcome
from tests import models

TOLERANCE = 2e-6  # of the output's magnitude: float32 rounding of one folded layer


def fold(model: ir.Model) -> Outcome:
    return FoldBatchNorm().call(model)


@pytest.mark.parametrize("make", [models.conv_bn_relu, models.residual, models.depthwise])
def test_networks_compute_the_same_without_batchnorm(make):
    before, after = make(), ir.from_proto(make())
    outcome = fold(after)
    assert outcome.modified and not outcome.refusals
    assert "BatchNormalization" not in models.operators(after)
    assert models.largest_difference(before, after) < TOLERANCE


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        ("c = Conv<group=2>(x, w)", "float[6,2,3,3] w"),
        ("c = Conv(x, w, b)", "float[6,4,3,3] w, float[6] b"),
        ("c = ConvTranspose<strides=[2,2]>(x, w)", "float[4,6,3,3] w"),
        ("c = ConvTranspose<group=2, strides=[2,2]>(x, w, b)", "float[4,3,3,3] w, float[6] b"),
    ],
)
def test_every_kind_of_convolution(layer, weights):
    text = f"""g (float[N,4,6,6] x) => (float[N,6,H,W] y)
        <{weights}, float[6] scale, float[6] shift, float[6] mean, float[6] variance>
        {{ {layer} y = BatchNormalization<epsilon=0.01>(c, scale, shift, mean, variance) }}"""
    after = models.graph(text)
    assert fold(after).modified
    assert len(after.graph) == 1 and after.graph.outputs[0].name == "y"
    assert models.largest_difference(models.parse(text), after) < TOLERANCE


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        ("c = Gemm(x, w)", "float[4,6] w"),
        ("c = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)", "float[6,4] w, float[6] b"),
        ("c = Gemm<transB=1, beta=0.0>(x, w, b)", "float[6,4] w, float[1,6] b"),
        ("c = Gemm(x, w, b)", "float[4,6] w, float b"),
    ],
)
def test_gemm_with_alpha_and_beta(layer, weights):
    text = f"""g (float[N,4] x) => (float[N,6] y)
        <{weights}, float[6] scale, float[6] shift, float[6] mean, float[6] variance>
        {{ {layer} y = BatchNormalization(c, scale, shift, mean, variance) }}"""
    after = models.graph(text)
    assert fold(after).modified
    assert models.largest_difference(models.parse(text), after) < TOLERANCE


def test_the_output_of_the_layer_takes_the_name_of_the_batchnorm():
    model = ir.from_proto(models.conv_bn_relu())
    fold(model)
    conv, relu = model.graph
    assert conv.outputs[0].name == relu.inputs[0].name == "n"
    assert set(model.graph.initializers) == {"w", "b"}, (
        "the parameters of the node are gone, the layer's kept their names"
    )
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_a_second_run_changes_nothing():
    model = ir.from_proto(models.residual())
    assert fold(model).modified
    assert not fold(model).modified


def test_shared_parameters_and_weights_are_left_for_the_others():
    text = """g (float[N,4,6,6] x) => (float[N,4,6,6] y, float[N,4,6,6] z)
        <float[4,4,1,1] w, float[4] scale, float[4] shift, float[4] mean, float[4] variance>
        { [a] c = Conv(x, w) y = BatchNormalization(c, scale, shift, mean, variance)
          [b] d = Conv(y, w) e = BatchNormalization(d, scale, shift, mean, variance) z = Conv(e, w) }"""
    after = models.graph(text)
    assert fold(after).modified
    np.testing.assert_array_equal(
        after.graph.initializers["w"].const_value.numpy(),
        models.graph(text).graph.initializers["w"].const_value.numpy(),
    )
    assert models.largest_difference(models.parse(text), after) < TOLERANCE


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        ("c = Conv(x, w) y = BatchNormalization(c, scale, shift, mean, variance) z = Relu(c)", "y, z", "read by other"),
        (
            "z = Conv(x, w) y = BatchNormalization(z, scale, shift, mean, variance)",
            "y, z",
            "also an output of the graph",
        ),
        ("y = BatchNormalization(x, scale, shift, mean, variance) z = Conv(y, w)", "z", "behind a graph input"),
        ("c = Relu(x) y = BatchNormalization(c, scale, shift, mean, variance) z = Conv(y, w)", "z", "behind Relu"),
        (
            "s = ReduceMax<keepdims=0>(x, a) c = Conv(x, w) z = BatchNormalization(c, s, shift, mean, variance)",
            "z",
            "const",
        ),
        ("c = Conv(x, v) z = BatchNormalization(c, scale, shift, mean, variance)", "z", "not constant"),
        (
            "c = Conv(x, w) z, m, n = BatchNormalization<training_mode=1>(c, scale, shift, mean, variance)",
            "z",
            "training mode",
        ),
    ],
)
def test_what_cannot_be_folded_stays_and_says_why(body, outputs, reason):
    typed = ", ".join(f"float[N,4,6,6] {name}" for name in outputs.split(", "))
    text = f"""g (float[N,4,6,6] x, float[4,4,1,1] v) => ({typed})
        <float[4,4,1,1] w, float[4] scale, float[4] shift, float[4] mean, float[4] variance, int64[3] a = {{0, 2, 3}}>
        {{ {body} }}"""
    model = models.graph(text)
    outcome = fold(model)
    assert not outcome.modified
    (refusal,) = outcome.refusals
    assert refusal.op_type == "BatchNormalization" and reason in refusal.reason
    assert "BatchNormalization" in models.operators(model)


def test_a_bias_that_differs_from_row_to_row_is_refused():
    text = """g (float[2,4] x) => (float[2,6] y)
        <float[4,6] w, float[2,6] b, float[6] scale, float[6] shift, float[6] mean, float[6] variance>
        { c = Gemm(x, w, b) y = BatchNormalization(c, scale, shift, mean, variance) }"""
    outcome = fold(models.graph(text))
    assert not outcome.modified and "row to row" in outcome.refusals[0].reason


def test_the_comparison_sees_a_wrong_fold(monkeypatch):
    model = ir.from_proto(models.conv_bn_relu())
    right = fold_batchnorm.constant_bias
    monkeypatch.setattr(fold_batchnorm, "constant_bias", lambda layer, channels: right(layer, channels) + 0.01)
    fold(model)
    assert models.largest_difference(models.conv_bn_relu(), model) > 100 * TOLERANCE


def test_what_was_asked_to_stay_stays():
    model = ir.from_proto(models.residual())
    names = [str(node.name) for node in model.graph if node.op_type == "BatchNormalization"]
    outcome = FoldBatchNorm(keep=names[:1]).call(model)
    assert [refusal.where for refusal in outcome.refusals] == names[:1]
    assert [node.name for node in model.graph if node.op_type == "BatchNormalization"] == names[:1]
