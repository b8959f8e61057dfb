import onnx_ir as ir
import pytest

from passes.normalize.fuse_activation import FuseActivation
from passes.normalize.infer_shapes import InferShapes
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude
CONSTANTS = (
    "float zero = {0.0}, float one = {1.0}, float three = {3.0}, float six = {6.0}, float half = {0.5}, "
    "float tenth = {0.1}, float[1] sixth = {0.16666667}, float root = {1.4142135}, float[1,1,1,1] k = {0.7978846}, "
    "float c = {0.044715}, float[4,1,1] alike = {0.2,0.2,0.2,0.2}, float[4,1,1] unlike = {0.1,0.2,0.3,0.4}, "
    "float tiny = {0.00000001}, float large = {10000.0}, float cube = {3.0}, float twice = {2.0}"
)
EXP = "n = Neg(x) e = Exp(n) d = Add(e, one)"
SIX = "a = Add(x, three) s = Clip(a, zero, six)"
ERF = "q = Div(x, root) e = Erf(q) a = Add(e, one)"


def text(body: str, outputs: str = "float[N,4,5,6] y", inputs: str = "float[N,4,5,6] x") -> str:
    return f"g ({inputs}) => ({outputs}) <{CONSTANTS}> {{ {body} }}"


def fused(given: str) -> ir.Model:
    model = models.graph(given)
    InferShapes()(model)
    FuseActivation()(model)
    return model


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("y = Max(x, zero)", ["Relu"]),
        ("y = Clip(x, zero)", ["Relu"]),
        ("p = Greater(x, zero) y = Where(p, x, zero)", ["Relu"]),
        ("p = Greater(x, zero) m = Cast<to=1>(p) y = Mul(m, x)", ["Relu"]),
        ("a = Max(x, zero) y = Min(a, six)", ["Clip"]),
        ("r = Relu(x) y = Clip(r, , six)", ["Clip"]),
        ("a = Mul(x, tenth) y = Max(x, a)", ["LeakyRelu"]),
        ("a = Mul(alike, x) y = Max(a, x)", ["LeakyRelu"]),
        ("a = Mul(x, tenth) p = Less(x, zero) y = Where(p, a, x)", ["LeakyRelu"]),
        ("r = Relu(x) n = Neg(x) s = Relu(n) m = Mul(s, tenth) y = Sub(r, m)", ["LeakyRelu"]),
        ("y = PRelu(x, alike)", ["LeakyRelu"]),
        ("y = PRelu(x, tenth)", ["LeakyRelu"]),
        (f"{EXP} y = Div(one, d)", ["Sigmoid"]),
        (f"{EXP} y = Div(x, d)", ["Sigmoid", "Mul"]),
        (f"{EXP} r = Reciprocal(d) y = Mul(r, x)", ["Sigmoid", "Mul"]),
        (f"{SIX} y = Div(s, six)", ["HardSigmoid"]),
        (f"{SIX} g = Mul(s, sixth) y = Mul(x, g)", ["HardSwish"]),
        (f"{SIX} g = Mul(x, s) y = Div(g, six)", ["HardSwish"]),
        (f"{ERF} m = Mul(x, a) y = Mul(m, half)", ["Gelu"]),
        (f"{ERF} h = Mul(x, half) y = Mul(h, a)", ["Gelu"]),
        ("p = Pow(x, cube) q = Mul(p, c) s = Add(x, q) u = Mul(s, k) t = Tanh(u) a = Add(t, one) h = Mul(x, half) "
         "y = Mul(h, a)", ["Gelu"]),
        (f"{ERF} y = Mul(x, a)", ["Gelu", "Mul"]),  # half of it is in the layer behind
        (f"{SIX} y = Mul(x, s)", ["HardSwish", "Mul"]),
        ("s = Softplus(x) t = Tanh(s) y = Mul(x, t)", ["Mish"]),
        ("e = Exp(x) d = Add(e, one) s = Log(d) t = Tanh(s) y = Mul(x, t)", ["Mish"]),
    ],
)  # fmt: skip
def test_parts_become_the_activation(body, after):
    model = fused(text(body))
    assert models.operators(model) == after
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert models.largest_difference(models.parse(text(body)), model) < TOLERANCE
    assert not FuseActivation()(model).modified


@pytest.mark.parametrize(
    "body",
    [
        "y = Max(x, tiny)",  # keeps a logarithm finite
        "y = Clip(x, zero, large)",
        "y = Clip(x, , six)",
        "r = Relu(x) y = Add(r, tiny)",
        "a = Mul(x, twice) y = Max(x, a)",  # 2 x above, x below
        "a = Mul(x, tenth) y = Min(x, a)",
        "y = PRelu(x, unlike)",
        "a = Mul(x, unlike) y = Max(x, a)",
        f"{EXP} y = Div(twice, d)",
        f"{EXP.replace('one', 'twice')} y = Div(one, d)",
        f"{SIX} y = Div(s, three)",
        f"{ERF.replace('root', 'twice')} m = Mul(x, a) y = Mul(m, half)",
        "s = Softplus(x) t = Tanh(s) y = Add(x, t)",
        # already as targets take them
        "s = Sigmoid(x) y = Mul(x, s)",
        "s = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(x, s)",
        "y = Clip(x, zero, six)",
        "a = Mul(x, x) y = Add(a, one)",
        "s = Sigmoid(x) y = Mul(s, zero)",
    ],
)
def test_other_functions_stay(body):
    before = models.operators(models.graph(text(body)))
    assert models.operators(fused(text(body))) == before


@pytest.mark.parametrize(
    ("body", "outputs", "inputs"),
    [
        ("a = Mul(x, tenth) y = Max(x, a) z = Neg(a)", "float[N,4,5,6] y, float[N,4,5,6] z", "float[N,4,5,6] x"),
        ("a = Mul(x, tenth) y = Max(x, a)", "float[N,4,5,6] y, float[N,4,5,6] a", "float[N,4,5,6] x"),
        ("y = Max(w, zero)", "float[N,4,5,6] y", "float[N,4,5,6] x, float[N,4,5,6] w"),
        ("a = Mul(x, tenth) y = Max(w, a)", "float[N,4,5,6] y", "float[N,4,5,6] x, float[N,4,5,6] w"),
        ("a = Mul(x, alike) y = Max(x, a)", "float[4,1,3] y", "float[3] x"),  # the slopes make the shape
        ("y = Max(x, k)", "float[1,1,1,3] y", "float[3] x"),
    ],
)
def test_only_what_nobody_else_reads_or_shapes(body, outputs, inputs):
    given = text(body, outputs, inputs)
    model = fused(given)
    assert models.largest_difference(models.parse(given), model) == 0.0
    assert "LeakyRelu" not in models.operators(model)


def test_one_behind_the_other():
    one = "a{n} = Add(v{n}, three) s{n} = Clip(a{n}, zero, six) g{n} = Mul(v{n}, s{n}) v{m} = Div(g{n}, six)"
    body = " ".join(one.format(n=step, m=step + 1) for step in range(3))
    given = text(f"v0 = Neg(x) {body} y = Neg(v3)")
    model = fused(given)
    assert models.operators(model) == ["Neg", *["HardSwish"] * 3, "Neg"]
    assert models.largest_difference(models.parse(given), model) < TOLERANCE


def test_values_of_unknown_type_stay():
    model = models.graph(text("a = Neg(x) y = Max(a, zero)"))
    model.graph[0].outputs[0].type = None
    assert not FuseActivation()(model).modified
