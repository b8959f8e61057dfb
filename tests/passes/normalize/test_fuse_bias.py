import pytest

from passes.normalize import fuse_bias
from passes.normalize.fuse_bias import FuseBias
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude
IMAGE, MATRIX = "float[N,4,6,6] x", "float[N,4] x"


def text(body, weights, inputs=IMAGE, output="float[N,6,H,W] y"):
    return f"g ({inputs}) => ({output}) <{weights}> {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("c = Conv(x, w) y = Add(c, b)", "float[6,4,3,3] w, float[1,6,1,1] b"),
        ("c = Conv(x, w) y = Add(b, c)", "float[6,4,3,3] w, float[6,1,1] b"),
        ("c = Conv<group=2>(x, w, a) y = Add(c, b)", "float[6,2,3,3] w, float[6] a, float[1,1,1] b"),
        ("c = Conv(x, w, a) y = Sub(c, b)", "float[6,4,3,3] w, float[6] a, float[1,6,1,1] b"),
        ("c = ConvTranspose<group=2>(x, w) y = Add(c, b)", "float[4,3,3,3] w, float[1,6,1,1] b"),
        ("c = Conv(x, w) d = Add(c, b) y = Add(d, a)", "float[6,4,3,3] w, float[1,6,1,1] b, float a"),
    ],
)
def test_convolutions_take_the_addend(body, weights):
    given = text(body, weights)
    model = models.graph(given)
    assert FuseBias()(model).modified
    assert len(model.graph) == 1 and model.graph.outputs[0].name == "y"
    assert model.graph[0].inputs[2].const_value.shape.numpy() == (6,)
    assert models.largest_difference(models.parse(given), model) < TOLERANCE
    assert not FuseBias()(model).modified


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("c = MatMul(x, w) y = Add(c, b)", "float[4,6] w, float[6] b"),
        ("c = MatMul(x, w) y = Add(b, c)", "float[4,6] w, float[1,6] b"),
        ("c = MatMul(x, w) y = Add(c, b)", "float[4,6] w, float b"),
        ("c = Gemm<transB=1, beta=0.5>(x, w, a) y = Add(c, b)", "float[6,4] w, float[6] a, float[6] b"),
        ("c = Gemm(x, w) y = Add(c, b)", "float[4,6] w, float[6] b"),
    ],
)
def test_matrix_products_become_gemm_with_a_bias(body, weights):
    given = text(body, weights, MATRIX, "float[N,6] y")
    model = models.graph(given)
    assert FuseBias()(model).modified
    assert models.operators(model) == ["Gemm"]
    assert models.largest_difference(models.parse(given), model) < TOLERANCE


@pytest.mark.parametrize(
    ("body", "weights", "inputs", "output"),
    [
        ("c = Conv(x, w) y = Add(c, b)", "float[6,4,3,3] w, float[1,6,4,4] b", IMAGE, "float[N,6,4,4] y"),
        ("c = Conv(x, w) y = Add(c, b)", "float[6,4,3,3] w, float[4] b", IMAGE, "float[N,6,4,4] y"),
        ("c = Conv(x, w) y = Sub(b, c)", "float[6,4,3,3] w, float[1,6,1,1] b", IMAGE, "float[N,6,4,4] y"),
        ("c = Conv(x, w) y = Add(c, c)", "float[6,4,3,3] w", IMAGE, "float[N,6,4,4] y"),
        (
            "c = Conv(x, w) y = Add(c, b) z = Relu(c)",
            "float[6,4,3,3] w, float b",
            IMAGE,
            "float[N,6,4,4] y, float[N,6,4,4] z",
        ),
        (
            "c = Conv(x, w) y = Add(c, b)",
            "float[6,4,3,3] w, float b",
            IMAGE,
            "float[N,6,4,4] y, float[N,6,4,4] c",
        ),
        ("c = MatMul(x, w) y = Add(c, b)", "float[4,6] w, float[6] b", "float[N,5,4] x", "float[N,5,6] y"),
        ("c = MatMul(x, w) y = Add(c, b)", "float[4,6] w, float[3,6] b", "float[3,4] x", "float[3,6] y"),
        ("c = Relu(x) y = Add(c, b)", "float[1,4,1,1] b", IMAGE, "float[N,4,6,6] y"),
    ],
)
def test_other_additions_stay(body, weights, inputs, output):
    model = models.graph(text(body, weights, inputs, output))
    before = models.operators(model)
    assert not FuseBias()(model).modified
    assert models.operators(model) == before


def test_a_shared_bias_is_kept_for_the_others():
    given = text(
        "c = Conv(x, w, a) d = Add(c, b) e = Conv(x, w, a) y = Sub(d, e)", "float[6,4,3,3] w, float[6] a, float b"
    )
    model = models.graph(given)
    assert FuseBias()(model).modified
    assert "a" in model.graph.initializers
    assert models.largest_difference(models.parse(given), model) < 1e-5


def test_the_comparison_sees_a_wrong_bias(monkeypatch):
    right = fuse_bias._fused_bias
    monkeypatch.setattr(fuse_bias, "_fused_bias", lambda layer, addend: right(layer, 1.01 * addend))
    given = text("c = Conv(x, w) y = Add(c, b)", "float[6,4,3,3] w, float[1,6,1,1] b")
    model = models.graph(given)
    FuseBias()(model)
    assert models.largest_difference(models.parse(given), model) > 100 * TOLERANCE
