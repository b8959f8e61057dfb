import numpy as np
import pytest
from onnx_ir.passes import common

from passes.normalize import resolve_shapes
from passes.normalize.infer_shapes import InferShapes
from passes.normalize.resolve_shapes import ResolveShapes
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude
CONSTANTS = (
    "int64 i0 = {0}, int64 i1 = {1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, "
    "int64[1] rest = {-1}, int64[2] hw = {2, 3}, int64[1] c8 = {8}, int64[1] far = {-100}, float[0] none"
)


def text(body, output="float[A,B] y", inputs="float[N,8,4,6] x"):
    return f"g ({inputs}) => ({output}) <{CONSTANTS}> {{ {body} }}"


def resolve(model):
    InferShapes()(model)
    modified = ResolveShapes()(model).modified
    common.RemoveUnusedNodesPass()(model)
    return modified


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (
            "s = Shape(x) b = Gather(s, i0) u = Unsqueeze(b, zero) t = Concat<axis=0>(u, rest) y = Reshape(x, t)",
            [0, -1],
        ),
        ("b = Shape<end=1>(x) t = Concat<axis=0>(b, rest) y = Reshape(x, t)", [0, -1]),
        (
            "s = Shape(x) b = Slice(s, zero, one) c = Slice(s, one, four) p = ReduceProd<keepdims=1>(c) "
            "t = Concat<axis=0>(b, rest) y = Reshape(x, t)",
            [0, -1],
        ),
        (
            "s = Shape(x) c = Gather(s, i1) d = Mul(c, c) e = Div(d, i1) u = Unsqueeze(e, zero) "
            "t = Concat<axis=0>(rest, u) y = Reshape(x, t)",
            [-1, 64],
        ),
        (
            "s = Shape(x) r = Slice(s, rest, far, zero, rest) c = Gather(r, i1) u = Unsqueeze(c, zero) "
            "v = Cast<to=7>(u) t = Concat<axis=0>(rest, v) y = Reshape(x, t)",
            [-1, 4],
        ),
    ],
)
def test_the_shape_of_a_reshape_becomes_constant(body, left):
    model = models.graph(text(body))
    assert resolve(model)
    assert models.operators(model) == ["Reshape"]
    assert model.graph[0].inputs[1].const_value.numpy().tolist() == left
    assert models.largest_difference(models.parse(text(body)), model) == 0.0
    assert not resolve(model)


def test_channel_shuffle_keeps_the_batch_open():
    body = """s = Shape(x) n = Gather(s, i0) u = Unsqueeze(n, zero) t = Concat<axis=0>(u, two, four, four, rest)
        r = Reshape(x, t) p = Transpose<perm=[0,2,1,3,4]>(r) s2 = Shape(p) n2 = Gather(s2, i0) u2 = Unsqueeze(n2, zero)
        t2 = Concat<axis=0>(u2, c8, four, rest) y = Reshape(p, t2)"""
    given = text(body, "float[A,8,4,6] y")
    model = models.graph(given)
    while resolve(model):  # the second Reshape's shape is known once the first one's is
        pass
    assert models.operators(model) == ["Reshape", "Transpose", "Reshape"]
    assert models.largest_difference(models.parse(given), model) == 0.0


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_sizes_of_a_resize_become_scales(mode):
    body = f"""s = Shape(x) a = Slice(s, zero, two) t = Shape(z) b = Slice(t, two, four)
        sizes = Concat<axis=0>(a, b) y = Resize<mode="{mode}">(x, none, none, sizes)"""
    given = text(body, "float[A,B,H,W] y", "float[N,8,4,6] x, float[N,2,9,12] z").replace(", float[0] none", "")
    given = given.replace("(x, none, none, sizes)", "(x, , , sizes)")
    model = models.graph(given)
    assert resolve(model)
    assert models.operators(model) == ["Resize"]
    assert model.graph[0].inputs[2].const_value.numpy().tolist() == [1.0, 1.0, 2.25, 2.0]
    assert models.largest_difference(models.parse(given), model) < TOLERANCE


@pytest.mark.parametrize(
    "body",
    [
        "s = Shape(x) b = Gather(s, i0) d = Mul(b, i1) u = Unsqueeze(d, zero) t = Concat<axis=0>(u, rest) "
        "y = Reshape(x, t)",
        "t = Cast<to=7>(z) y = Reshape(x, t)",
        "s = Shape(x) b = Slice(s, zero, one) t = Concat<axis=0>(b, rest) y = Reshape<allowzero=1>(x, t)",
    ],
)
def test_what_depends_on_more_than_names_of_sizes_stays(body):
    model = models.graph(text(body, inputs="float[N,8,4,6] x, float[2] z"))
    before = models.operators(model)
    resolve(model)
    assert "Reshape" in models.operators(model) and len(models.operators(model)) == len(before)


def test_a_size_that_is_an_output_is_still_computed():
    model = models.graph(text("y = Relu(x) s = Shape(x)", "float[N,8,4,6] y, int64[4] s", "float[3,8,4,6] x"))
    resolve(model)
    assert models.operators(model) == ["Relu", "Shape"]


def test_the_comparison_sees_a_wrong_size(monkeypatch):
    body = "s = Shape(x) c = Gather(s, i1) u = Unsqueeze(c, zero) t = Concat<axis=0>(rest, u) y = Reshape(x, t)"
    right = resolve_shapes._RULES["Gather"]
    monkeypatch.setitem(resolve_shapes._RULES, "Gather", lambda node, given: np.array(right(node, given) // 2, object))
    model = models.graph(text(body))
    resolve(model)
    with pytest.raises(AssertionError, match="shape of y changed"):
        models.largest_difference(models.parse(text(body)), model)
