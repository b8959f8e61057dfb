import pytest

from passes.batchnorm.merge_branches import MergeBranches
from tests import models

TOLERANCE = 2e-6  # of the output's magnitude: float32 rounding of a sum of weights

TWO = "strides=[2,2]"
MAP = "float[N,8,A,B] y"


def text(body: str, outputs: str = MAP) -> str:
    weights = (
        "float[8,4,3,3] three, float[8] b3, float[8,4,1,1] one, float[8] b1, float[8,4,1,3] row, float[8,4,5,5] five"
    )
    grouped = (
        "float[8,1,3,3] deep, float[8,1,1,1] way, float[8,2,3,3] halves, float[8,8,3,3] full, float[1,4,1,1] single"
    )
    return f"g (float[N,4,7,7] x, float[N,8,7,7] z) => ({outputs}) <{weights}, {grouped}> {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv<pads=[1,1,1,1]>(x, three, b3) c = Conv(x, one, b1) y = Add(a, c)",
        "a = Conv<pads=[1,1,1,1]>(x, three) c = Conv(x, one, b1) y = Add(c, a)",
        "a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, three) c = Conv<strides=[2,2]>(x, one) y = Add(a, c)",
        "a = Conv<pads=[2,1,2,1], dilations=[2,1]>(x, three) c = Conv(x, one) y = Add(a, c)",
        "a = Conv<pads=[1,1,1,1]>(x, three) c = Conv<pads=[0,1,0,1]>(x, row) y = Add(a, c)",
        "a = Conv<pads=[2,2,2,2]>(x, five) c = Conv<pads=[1,1,1,1]>(x, three) y = Add(a, c)",
        "a = Conv<pads=[1,1,1,1]>(x, three, b3) c = Conv<pads=[1,1,1,1]>(x, three, b1) y = Add(a, c)",
        "a = Conv<pads=[0,2,2,0]>(x, three) c = Conv(x, one) y = Add(a, c)",
        "a = Conv<pads=[1,1,1,1], group=8>(z, deep, b3) c = Conv<group=8>(z, way, b1) y = Add(a, c)",
        "a = Conv<pads=[1,1,1,1]>(z, full, b3) c = Conv<group=8>(z, way, b1) y = Add(c, a)",
        "a = Conv<pads=[1,1,1,1], group=4>(z, halves, b3) c = Conv<group=8>(z, way, b1) y = Add(a, c)",
    ],
)  # fmt: skip
def test_two_convolutions_become_one(body):
    model = models.graph(text(body))
    assert MergeBranches().call(model).modified
    assert models.operators(model) == ["Conv"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert models.largest_difference(models.parse(text(body)), model) < TOLERANCE


def test_three_branches_become_one():
    body = """a = Conv<pads=[1,1,1,1]>(z, full, b3) c = Conv<group=8>(z, way, b1)
        d = Conv<pads=[1,1,1,1], group=8>(z, deep) s = Add(a, c) y = Add(d, s)"""
    model = models.graph(text(body))
    MergeBranches().call(model)
    assert models.operators(model) == ["Conv"]
    assert models.largest_difference(models.parse(text(body)), model) < TOLERANCE


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("a = Conv(x, three) c = Conv(x, one, b1) s = Relu(a) t = ReduceMean(c) y = Add(a, t)", MAP),
        ("r = Relu(x) a = Conv<pads=[1,1,1,1]>(x, three) c = Conv(r, one) y = Add(a, c)", MAP),
        ("a = Conv<pads=[1,1,1,1]>(x, three) c = Conv(x, one) y = Add(a, c) v = Relu(c)", f"{MAP}, float[N,8,A,B] v"),
        ("a = Conv<pads=[1,1,1,1]>(x, three) c = Conv(x, one) y = Add(a, c)", f"{MAP}, float[N,8,A,B] c"),
        ("a = Conv<pads=[1,1,1,1]>(x, three) y = Add(a, a)", MAP),
        ("a = Conv<pads=[1,1,1,1]>(x, three) c = Conv(x, single) y = Add(a, c)", MAP),
        (f"a = Conv<pads=[0,0,2,2], {TWO}>(x, three) c = Conv<pads=[0,0,1,1], {TWO}>(x, one) y = Add(a, c)",
         MAP),
        ("a = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, three) c = Conv<pads=[1,1,1,1]>(x, three) y = Add(a, c)",
         MAP),
        ("a = Conv<pads=[1,1,1,1], group=8>(z, deep) c = Conv<pads=[1,1,1,1]>(z, full) d = Relu(c) y = Add(a, d)",
         MAP),
    ],
)  # fmt: skip
def test_other_sums_stay(body, outputs):
    model = models.graph(text(body, outputs))
    before = models.operators(model)
    assert not MergeBranches().call(model).modified
    assert models.operators(model) == before
