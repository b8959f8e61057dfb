import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from passes.normalize.fuse_norm import FuseNorm
from passes.normalize.infer_shapes import InferShapes
from passes.normalize.unify_divisions import UnifyDivisions
from passes.normalize.unify_means import UnifyMeans
from tests import models

TOLERANCE = 1e-5  # of the output's magnitude: the runtime's kernel takes variances otherwise
LAYER, INSTANCE = "LayerNormalization", "InstanceNormalization"
TOKENS, IMAGE = "float[N,5,6] x", "float[N,4,5,6] x"
PARTS = "m = ReduceMean(x, last) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e)"
SQUEEZED = PARTS.replace("ReduceMean(x, last)", "Unsqueeze(u, third)")
CONSTANTS = (
    "int64[1] last = {-1}, int64[1] third = {2}, int64[2] places = {2,3}, int64[3] most = {1,2,3}, int64[1] c = {1}, "
    "float two = {2.0}, float eps = {0.00001}, float half = {0.5}, float minus = {-0.5}, float one = {1.0}, "
    "float[6] g_scale, float[6] b, float[1,1,6] g3_scale, float[4,1,1] gc_scale, float[1,4,1,1] bc, float[5,1] gt_scale"
)


def text(body: str, inputs: str = TOKENS, outputs: str | None = None) -> str:
    outputs = outputs or inputs.replace(" x", " y")
    return f"g ({inputs}) => ({outputs}) <{CONSTANTS}> {{ {body} }}"


def fused(given: str) -> ir.Model:
    model = models.graph(given)
    InferShapes()(model)
    for step in (UnifyDivisions(), FuseNorm(), UnifyMeans(), common.RemoveUnusedNodesPass()):
        step(model)
    return model


def over(axes: str) -> str:
    return PARTS.replace("last", axes)


@pytest.mark.parametrize(
    ("body", "inputs", "after"),
    [
        (f"{PARTS} y = Div(d, s)", TOKENS, [LAYER]),
        (f"{PARTS} n = Div(d, s) k = Mul(n, g_scale) y = Add(k, b)", TOKENS, [LAYER]),
        (f"{PARTS} n = Div(d, s) k = Mul(g3_scale, n) y = Add(b, k)", TOKENS, [LAYER]),
        (f"{PARTS} n = Div(d, s) k = Mul(n, g_scale) y = Relu(k)", TOKENS, [LAYER, "Relu"]),
        (f"{PARTS} n = Div(d, s) k = Mul(n, half) y = Add(k, b)", TOKENS, [LAYER]),
        # a scale for every token is none of LayerNormalization's
        (f"{PARTS} n = Div(d, s) y = Mul(n, gt_scale)", TOKENS, [LAYER, "Mul"]),
        (f"{PARTS} d2 = Sub(x, m) y = Div(d2, s)".replace("Pow(d, two)", "Mul(d, d)"), TOKENS, [LAYER]),
        (f"{PARTS} r = Reciprocal(s) y = Mul(d, r)", TOKENS, [LAYER]),
        (f"{PARTS} y = Div(d, s)".replace("Sqrt(e)", "Pow(e, half)"), TOKENS, [LAYER]),
        (f"{PARTS} y = Mul(d, s)".replace("Sqrt(e)", "Pow(e, minus)"), TOKENS, [LAYER]),
        (f"{PARTS} y = Div(d, s)".replace("ReduceMean(x", "ReduceMean<keepdims=1>(x"), TOKENS, [LAYER]),
        (f"u = ReduceMean<keepdims=0>(x, last) {SQUEEZED} y = Div(d, s)", TOKENS, [LAYER]),
        # as Keras writes it
        (f"{PARTS} r = Reciprocal(s) k = Mul(r, g_scale) p = Mul(x, k) w = Mul(m, k) h = Sub(b, w) y = Add(p, h)",
         TOKENS, [LAYER]),
        (f"{PARTS} k = Reciprocal(s) p = Mul(k, x) w = Mul(k, m) h = Sub(b, w) y = Add(h, p)", TOKENS, [LAYER]),
        # pictures, channels last and first
        (f"{over('last')} n = Div(d, s) k = Mul(n, g_scale) y = Add(k, b)", IMAGE, [LAYER]),
        (f"{over('most')} y = Div(d, s)", IMAGE, [LAYER]),
        (f"{over('places')} n = Div(d, s) k = Mul(n, gc_scale) y = Add(k, bc)", IMAGE, [INSTANCE]),
        (f"{over('places')} n = Div(d, s) k = Mul(n, gc_scale) y = Add(k, bc)", "float[N,4,H,W] x", [INSTANCE]),
        (f"{over('places')} n = Div(d, s) y = Mul(n, g_scale)", IMAGE, [LAYER]),
        (f"{over('third')} y = Div(d, s)", "float[N,4,L] x", [INSTANCE]),
    ],
)  # fmt: skip
def test_parts_become_one_node(body, inputs, after):
    model = fused(text(body, inputs))
    assert models.operators(model) == after
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert models.largest_difference(models.parse(text(body, inputs)), model) < TOLERANCE


@pytest.mark.parametrize(
    "body",
    [
        f"{PARTS} y = Div(x, s)",  # not centred
        f"{PARTS} y = Div(s, d)",
        f"{PARTS} m2 = ReduceMean(x, c) d2 = Sub(x, m2) y = Div(d2, s)",  # another mean
        f"{PARTS} y = Div(d, s)".replace("ReduceMean(q, last)", "ReduceMean(q, c)"),  # another variance
        f"{PARTS} y = Div(d, s)".replace("Pow(d, two)", "Pow(d, half)"),
        f"{PARTS} a = Add(s, eps) y = Div(d, a)".replace("Add(v, eps)", "Identity(v)"),  # the constant outside the root
        "q = Pow(x, two) v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e) y = Div(x, s)",  # no mean
        f"{over('c')} y = Div(d, s)",
    ],
)  # fmt: skip
def test_other_graphs_stay_and_no_part_is_pooled(body):
    before = [operator for operator in models.operators(models.graph(text(body)))]
    model = fused(text(body))
    assert models.operators(model) == before


def test_parts_that_others_read_stay_for_them():
    given = text(
        f"{PARTS} n = Div(d, s) k = Mul(n, g_scale) y = Add(k, b) z = Relu(k)",
        outputs="float[N,5,6] y, float[N,5,6] z, float[N,5,1] m",
    )
    model = fused(given)
    assert models.operators(model).count(LAYER) == 1 and "ReduceMean" in models.operators(model)
    assert models.largest_difference(models.parse(given), model) < TOLERANCE


def test_a_layer_of_open_width_stays_in_parts_and_in_float():
    given = text(f"{PARTS} y = Div(d, s)", "float[N,T,W] x").replace("[N,T,W] x", "[2,T,W] x")
    model = fused(given)
    assert not {LAYER, INSTANCE, "GlobalAveragePool"} & set(models.operators(model))


def test_the_mean_of_squares_of_an_rms_norm_stays_a_mean():
    root = "q = Pow(x, two) v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e) r = Reciprocal(s)"
    body = f"{root} n = Mul(x, r) y = Mul(n, g_scale)"
    model = fused(text(body))
    assert models.operators(model) == ["Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]
    assert models.largest_difference(models.parse(text(body)), model) < TOLERANCE
