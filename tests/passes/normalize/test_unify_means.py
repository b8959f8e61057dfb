import onnx_ir as ir
import pytest

from passes.normalize import unify_means
from passes.normalize.infer_shapes import InferShapes
from passes.normalize.unify_means import UnifyMeans
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude
POOL, FLAT = "GlobalAveragePool", "Flatten"
IMAGE, SIGNAL, LAST = "float[N,4,5,6] x", "float[N,4,6] x", "float[N,5,6,4] x"


def text(body: str, output: str, inputs: str = IMAGE) -> str:
    axes = "int64[2] hw = {2,3}, int64[2] wh = {-1,-2}, int64[2] mid = {1,2}, int64[1] w = {3}, int64[1] h = {2}"
    more = (
        "int64[3] chw = {1,2,3}, int64[1] c = {1}, float n = {30.0}, float inverse = {0.033333335}, float six = {6.0}"
    )
    shapes = "int64[3] flat = {0,4,-1}"
    return f"g ({inputs}) => ({output}) <{axes}, {more}, {shapes}, float[4,4,3] k> {{ {body} }}"


def inferred(body: str, output: str, inputs: str = IMAGE) -> ir.Model:
    model = models.graph(text(body, output, inputs))
    InferShapes()(model)
    return model


@pytest.mark.parametrize(
    ("body", "output", "inputs", "after"),
    [
        ("y = ReduceMean(x, hw)", "float[N,4,1,1] y", IMAGE, [POOL]),
        ("y = ReduceMean<keepdims=1>(x, wh)", "float[N,4,1,1] y", IMAGE, [POOL]),
        ("y = ReduceMean<keepdims=0>(x, hw)", "float[N,4] y", IMAGE, [POOL, FLAT]),
        ("a = ReduceMean<keepdims=0>(x, wh) y = Relu(a)", "float[N,4] y", IMAGE, [POOL, FLAT, "Relu"]),
        ("a = ReduceMean<keepdims=0>(x, w) y = ReduceMean<keepdims=0>(a, h)", "float[N,4] y", IMAGE, [POOL, FLAT]),
        ("a = ReduceMean(x, w) y = ReduceMean(a, h)", "float[N,4,1,1] y", IMAGE, [POOL]),
        ("a = ReduceMean(x, w) y = ReduceMean<keepdims=0>(a, hw)", "float[N,4] y", IMAGE, [POOL, FLAT]),
        ("a = ReduceSum(x, hw) y = Div(a, n)", "float[N,4,1,1] y", IMAGE, [POOL]),
        ("a = ReduceSum<keepdims=0>(x, hw) y = Mul(inverse, a)", "float[N,4] y", IMAGE, [POOL, FLAT]),
        (
            "t = Transpose<perm=[0,2,3,1]>(x) r = Relu(t) y = ReduceMean<keepdims=0>(t, mid)",
            "float[N,4] y",
            IMAGE,
            ["Transpose", "Relu", POOL, FLAT],
        ),
        ("a = Conv(x, k) r = Relu(a) y = ReduceMean(r, h)", "float[N,4,1] y", SIGNAL, ["Conv", "Relu", POOL]),
        ("a = Reshape(x, flat) y = ReduceMean<keepdims=0>(a, h)", "float[N,4] y", IMAGE, ["Reshape", POOL, FLAT]),
    ],
)
def test_means_over_places_become_pooling(body, output, inputs, after):
    model = inferred(body, output, inputs)
    assert UnifyMeans()(model).modified
    assert models.operators(model) == after
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert models.largest_difference(models.parse(text(body, output, inputs)), model) < TOLERANCE
    assert not UnifyMeans()(model).modified


@pytest.mark.parametrize(
    ("body", "output", "inputs"),
    [
        ("y = ReduceMean(x, w)", "float[N,4,5,1] y", IMAGE),
        ("y = ReduceMean(x, chw)", "float[N,1,1,1] y", IMAGE),
        ("y = ReduceMean(x)", "float[1,1,1,1] y", IMAGE),
        ("y = ReduceMean(x, hw)", "float[N,4,1,1,3] y", "float[N,4,5,6,3] x"),
        ("y = ReduceMax(x, hw)", "float[N,4,1,1] y", IMAGE),
        ("m = ReduceMean(x, hw) y = Sub(x, m)", "float[N,4,5,6] y", IMAGE),  # centred
        ("q = Mul(x, x) y = ReduceMean(q, hw)", "float[N,4,1,1] y", IMAGE),  # a variance
        ("y = ReduceMean(x, h)", "float[N,4,1] y", SIGNAL),  # tokens, for all that is known
        ("r = Relu(x) t = Transpose<perm=[0,2,1]>(r) y = ReduceMean(t, h)", "float[N,6,1] y", SIGNAL),
        ("a = ReduceMean(x, w) s = Relu(a) t = ReduceMean(a, c) y = Add(s, t)", "float[N,4,5,1] y", IMAGE),
        ("a = ReduceMean(x, w) y = ReduceMean<keepdims=0>(a, h)", "float[N,4,1] y", IMAGE),  # leaves an axis of size 1
        ("a = ReduceSum(x, hw) y = Div(a, six)", "float[N,4,1,1] y", IMAGE),
        ("a = ReduceSum(x, hw) y = Div(n, a)", "float[N,4,1,1] y", IMAGE),
        ("y = ReduceMean<keepdims=0>(x, mid)", "float[N,4] y", LAST),
    ],
)
def test_other_means_stay(body, output, inputs):
    model = inferred(body, output, inputs)
    before = models.operators(model)
    assert not UnifyMeans()(model).modified
    assert models.operators(model) == before


def test_sums_over_open_sizes_stay():
    model = inferred("a = ReduceSum(x, hw) y = Div(a, n)", "float[N,4,1,1] y", "float[N,4,H,W] x")
    assert not UnifyMeans()(model).modified


def test_shapes_of_new_values_can_be_inferred():
    model = inferred("a = ReduceMean<keepdims=0>(x, wh) y = Relu(a)", "float[N,4] y")
    UnifyMeans()(model)
    InferShapes()(model)
    shapes = [[size for size in node.outputs[0].shape][1:] for node in model.graph]
    assert shapes == [[4, 1, 1], [4], [4]]


def test_the_comparison_sees_a_wrong_mean(monkeypatch):
    monkeypatch.setattr(unify_means.math, "isclose", lambda *_, **__: True)
    body, output = "a = ReduceSum(x, hw) y = Div(a, six)", "float[N,4,1,1] y"
    model = inferred(body, output)
    assert UnifyMeans()(model).modified
    assert models.largest_difference(models.parse(text(body, output)), model) > 0.1
