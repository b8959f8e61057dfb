import pytest

from passes.normalize.unify_divisions import UnifyDivisions
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude


def text(body: str) -> str:
    constants = "float one = {1.0}, float two = {2.0}, float[6] g, float power = {-0.5}, int64[1] last = {-1}"
    return f"g (float[N,4,6] x) => (float[N,4,6] y) <{constants}> {{ q = Mul(x, x) s = ReduceMean(q, last) {body} }}"


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("r = Reciprocal(s) y = Mul(x, r)", ["Reciprocal", "Div"]),
        ("r = Div(one, s) y = Mul(r, x)", ["Div", "Div"]),
        ("r = Pow(s, power) y = Mul(x, r)", ["Pow", "Sqrt", "Div"]),
        ("r = Reciprocal(s) k = Mul(r, g) y = Mul(x, k)", ["Reciprocal", "Mul", "Div", "Mul"]),
        ("r = Pow(s, power) k = Mul(g, r) y = Mul(k, x)", ["Pow", "Mul", "Sqrt", "Div", "Mul"]),
    ],
)
def test_products_with_reciprocals_become_divisions(body, after):
    model = models.graph(text(body))
    assert UnifyDivisions()(model).modified
    assert models.operators(model)[2:] == after
    assert models.largest_difference(models.parse(text(body)), model) < TOLERANCE
    assert not UnifyDivisions()(model).modified


@pytest.mark.parametrize(
    "body",
    [
        "r = Div(two, s) y = Mul(x, r)",
        "r = Reciprocal(s) a = Mul(x, r) y = Mul(a, r)",  # two readers: the reciprocal is worth its node
        "r = Reciprocal(s) a = Mul(r, g) y = Add(x, a)",
        "r = Pow(s, two) y = Mul(x, r)",
    ],
)
def test_other_products_stay(body):
    model = models.graph(text(body))
    assert not UnifyDivisions()(model).modified
