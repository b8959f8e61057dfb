import pytest

from passes.normalize.fold_gemm import FoldGemm
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude


def text(body: str, inputs: str = "float[N,4] x") -> str:
    declared = "float[4,6] w, float[6,4] v, float[6] b, float[1,6] row, float[1] one, float s = {0.7}, float[2,6] rows"
    return f"g ({inputs}) => (float[N,6] y) <{declared}, float[2,1] column> {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "inputs", "after"),
    [
        ("y = Gemm<alpha=0.5>(x, w)", "float[N,4] x", ["Gemm"]),
        ("y = Gemm<alpha=0.5, beta=2.0>(x, w, b)", "float[N,4] x", ["Gemm"]),
        ("y = Gemm<alpha=0.5, transB=1>(x, v, b)", "float[N,4] x", ["Gemm"]),
        ("y = Gemm<beta=0.25>(x, w, row)", "float[N,4] x", ["Gemm"]),
        ("y = Gemm<beta=2.0>(x, w, one)", "float[N,4] x", ["Gemm"]),
        ("y = Gemm<beta=3.0>(x, w, s)", "float[N,4] x", ["Gemm"]),
        ("y = Gemm<beta=0.0>(x, w, b)", "float[N,4] x", ["Gemm"]),
        ("y = Gemm<beta=2.0>(x, w)", "float[N,4] x", ["Gemm"]),
        ("y = Gemm<transA=1, alpha=2.0, beta=0.5>(x, w, b)", "float[4,N] x", ["Transpose", "Gemm"]),
        ("y = Gemm<transA=1, transB=1>(x, v, s)", "float[4,N] x", ["Transpose", "Gemm"]),
        ("y = Gemm<beta=0.5>(x, w, rows)", "float[2,4] x", ["Gemm"]),
        ("y = Gemm<beta=0.5>(x, w, column)", "float[2,4] x", ["Gemm"]),
    ],
)
def test_factors_go_into_constants(body, inputs, after):
    model = models.graph(text(body, inputs))
    assert FoldGemm()(model).modified
    assert models.operators(model) == after
    gemm = model.graph[-1]
    assert (gemm.attributes.get_float("alpha", 1.0), gemm.attributes.get_float("beta", 1.0)) == (1.0, 1.0)
    assert not gemm.attributes.get_int("transA", 0)
    if "beta" in body and "rows" not in body and "column" not in body and len(gemm.inputs) > 2:
        assert gemm.inputs[2].shape == [6]
    assert models.largest_difference(models.parse(text(body, inputs)), model) < TOLERANCE
    assert not FoldGemm()(model).modified


def test_shared_constants_are_copied():
    given = text("a = Gemm<alpha=0.5, beta=2.0>(x, w, b) c = Gemm<alpha=3.0>(x, w, b) y = Add(a, c)")
    model = models.graph(given)
    FoldGemm()(model)
    assert models.largest_difference(models.parse(given), model) < TOLERANCE


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ("y = Gemm(x, w, b)", "float[N,4] x"),
        ("y = Gemm<transB=1>(x, v)", "float[N,4] x"),
        ("y = Gemm<alpha=0.5>(x, z)", "float[N,4] x, float[4,6] z"),
        ("y = Gemm<beta=0.5>(x, w, z)", "float[N,4] x, float[6] z"),
    ],
)
def test_other_products_stay(body, inputs):
    model = models.graph(text(body, inputs))
    assert not FoldGemm()(model).modified
