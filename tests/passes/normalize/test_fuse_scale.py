import pytest

from passes.normalize.fuse_scale import FuseScale
from passes.normalize.infer_shapes import InferShapes
from tests import models

TOLERANCE = 2e-6  # of the output's magnitude
IMAGE, ROWS, TOKENS = "float[N,4,5,6] x", "float[N,4] x", "float[N,5,4] x"


def text(body: str, output: str, inputs: str) -> str:
    layers = "float[6,4,1,1] w, float[6] b, float[4,3,2,2] up, float[4,6] m, float[6,4] t, float[5,1] step_scale"
    scales = "float[6,1,1] c_scale, float[1,6,1,1] c4_scale, float s_scale = {0.5}, float[6] row_scale, float[1,6] brow"
    shapes = "int64[3] three = {-1, 5, 6}, int64[3] mixed = {-1, 15, 2}, float[1,6,1,6] odd, float none = {0.0}"
    return f"g ({inputs}) => ({output}) <{layers}, {scales}, {shapes}, float[1,1,1,1,1] deep> {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "output", "inputs", "after"),
    [
        ("c = Conv(x, w, b) y = Mul(c, c_scale)", "float[N,6,5,6] y", IMAGE, ["Conv"]),
        ("c = Conv(x, w) y = Mul(c4_scale, c)", "float[N,6,5,6] y", IMAGE, ["Conv"]),
        ("c = Conv(x, w, b) d = Div(c, c_scale) y = Mul(d, s_scale)", "float[N,6,5,6] y", IMAGE, ["Conv"]),
        ("c = ConvTranspose<group=2>(x, up, b) y = Mul(c, c_scale)", "float[N,6,6,7] y", IMAGE, ["ConvTranspose"]),
        ("c = MatMul(x, m) y = Mul(c, row_scale)", "float[N,6] y", ROWS, ["MatMul"]),
        ("c = MatMul(x, m) y = Div(c, row_scale)", "float[N,5,6] y", TOKENS, ["MatMul"]),
        ("c = Gemm<transB=1, beta=2.0>(x, t, brow) y = Mul(c, row_scale)", "float[N,6] y", ROWS, ["Gemm"]),
        ("c = Gemm<alpha=0.5>(x, m, s_scale) y = Mul(c, row_scale)", "float[N,6] y", ROWS, ["Gemm"]),
        ("c = Gemm(x, m, b) r = Reshape(c, three) y = Mul(r, row_scale)", "float[A,5,6] y", "float[10,4] x",
         ["Gemm", "Reshape"]),
        ("r = Relu(x) s = Mul(r, s_scale) y = Conv<pads=[1,1,1,1]>(s, w, b)", "float[N,6,7,8] y", IMAGE,
         ["Relu", "Conv"]),
        ("r = Relu(x) s = Div(r, s_scale) a = Gemm(s, m, b) c = MatMul(s, m) y = Add(a, c)", "float[N,6] y", ROWS,
         ["Relu", "Gemm", "MatMul", "Add"]),
        ("c = Conv(x, w, b) y = Mul(c, none)", "float[N,6,5,6] y", IMAGE, ["Conv"]),
    ],
)  # fmt: skip
def test_layers_take_the_scale(body, output, inputs, after):
    model = models.graph(text(body, output, inputs))
    InferShapes()(model)
    assert FuseScale()(model).modified
    assert models.operators(model) == after
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert models.largest_difference(models.parse(text(body, output, inputs)), model) < TOLERANCE


@pytest.mark.parametrize(
    ("body", "output", "inputs"),
    [
        ("c = Conv(x, w, b) y = Mul(c, c_scale) z = Relu(c)", "float[N,6,5,6] y, float[N,6,5,6] z", IMAGE),
        ("c = Conv(x, w, b) y = Mul(c, c_scale)", "float[N,6,5,6] y, float[N,6,5,6] c", IMAGE),
        ("c = Conv(x, w, b) y = Mul(c, row_scale)", "float[N,6,5,6] y", IMAGE),  # along the width
        ("c = Conv(x, w, b) y = Mul(c, odd)", "float[N,6,5,6] y", IMAGE),
        ("c = Conv(x, w, b) y = Mul(c, deep)", "float[1,N,6,5,6] y", IMAGE),
        ("c = Conv(x, w, b) y = Div(c_scale, c)", "float[N,6,5,6] y", IMAGE),
        ("c = Conv(x, w, b) y = Div(c, none)", "float[N,6,5,6] y", IMAGE),
        ("c = MatMul(x, m) y = Mul(c, step_scale)", "float[N,5,6] y", TOKENS),
        ("c = Gemm(x, m, b) r = Reshape(c, mixed) y = Mul(r, s_scale)", "float[A,15,2] y", "float[10,4] x"),
        ("c = MatMul(x, x) y = Mul(c, s_scale)", "float[4,4] y", "float[4,4] x"),
        ("s = Mul(x, s_scale) y = Conv(s, w, b)", "float[N,6,5,6] y", IMAGE),  # tells how pictures are given
        ("a = Add(x, s_scale) s = Mul(a, s_scale) y = Conv(s, w, b)", "float[N,6,5,6] y", IMAGE),
        ("r = Relu(x) s = Mul(r, s_scale) y = Conv(s, w) z = Relu(s)", "float[N,6,5,6] y, float[N,4,5,6] z", IMAGE),
    ],
)
def test_other_products_stay(body, output, inputs):
    model = models.graph(text(body, output, inputs))
    InferShapes()(model)
    assert not FuseScale()(model).modified


def test_shared_weights_are_left_for_the_others():
    given = text("c = Conv(x, w, b) y = Mul(c, c_scale) z = Conv(x, w, b)", "float[N,6,5,6] y, float[N,6,5,6] z", IMAGE)
    model = models.graph(given)
    assert FuseScale()(model).modified
    assert models.largest_difference(models.parse(given), model) < TOLERANCE
