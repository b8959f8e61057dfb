import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.dequantize import fold_dequantizers
from passes.dequantize.fold_dequantizers import FoldDequantizers
from passes.emit.pack_digits import to_words
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude: weights are exact, the runtime may add in another order


def text(body, constants, inputs="float[N,6] x", outputs="float[N,4] y"):
    return f"g ({inputs}) => ({outputs}) <{constants}> {{ {body} }}"


LAYER = "d = DequantizeLinear{axis}(w, s, z) y = MatMul(x, d)"
CODES = np.arange(-12, 12).reshape(6, 4)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        (LAYER.format(axis=""), "int8[6,4] w, float s = {0.1}, int8 z = {3}"),
        ("d = DequantizeLinear(w, s) y = MatMul(x, d)", "int8[6,4] w, float s = {0.1}"),
        (LAYER.format(axis="<axis=1>"), "int8[6,4] w, float[4] s, int8[4] z = {0, 1, -2, 5}"),
        (LAYER.format(axis="<axis=0>"), "int16[6,4] w, float[6] s, int16[6] z = {0, 1, 2, 3, 4, 5}"),
        (LAYER.format(axis="<axis=0, block_size=3>"), "int8[6,4] w, float[2,4] s, int8[2,4] z"),
        ("d = DequantizeLinear<axis=-2, block_size=4>(w, s) y = MatMul(x, d)", "int8[6,4] w, float[2,4] s"),
        ("d = DequantizeLinear(w, s) y = MatMul(x, d)", "int32[6,4] w, float s = {0.001}"),
        ("c = Cast<to=3>(w) d = DequantizeLinear<axis=1>(c, s) y = MatMul(x, d)", "int4[6,4] w, float[4] s"),
        ("d = DequantizeLinear<axis=1>(w, s) y = MatMul(x, d)", "int4[6,4] w, float[4] s"),
        (
            "t = Mul(s, one) d = DequantizeLinear(w, t) y = MatMul(x, d)",
            "int8[6,4] w, float s = {0.1}, float one = {0.5}",
        ),
        ("q = QuantizeLinear(w, s) d = DequantizeLinear(q, s) y = MatMul(x, d)", "float[6,4] w, float s = {0.25}"),
        (
            "d = DequantizeLinear(w, s) t = Transpose(d) y = MatMul(x, t)",
            "int8[4,6] w, float s = {0.1}",
        ),
    ],
)
def test_a_constant_is_folded_exactly(body, constants):
    given = text(body, constants)
    weights = _filled(constants)
    before = models.parse(given, weights=weights)
    model = models.graph(given, weights=weights)
    fold = FoldDequantizers()
    outcome = fold.call(model)
    assert outcome.modified and not outcome.refusals
    assert "DequantizeLinear" not in models.operators(model)
    (weight,) = fold.folded
    assert weight.name == "d" and weight is model.graph.initializers["d"]
    assert models.largest_difference(before, model) < TOLERANCE
    assert not FoldDequantizers().call(model).modified


def _filled(constants):
    """Codes for w, which may have 4 bits, and sensible numbers for the scales and zero points of many."""
    made = {} if "float[6,4] w" in constants else {"w": CODES // 3 if "int4" in constants else CODES}
    for size in (4, 6, 8):
        if f"float[{size}] s" in constants or (size == 8 and "float[2,4] s" in constants):
            made["s"] = np.linspace(0.05, 0.2, size)
    if "int8[2,4] z" in constants:
        made["z"] = np.resize([0, -1, 3], 8)
    return made


def test_digits_of_words_are_taken_apart():
    codes = np.random.default_rng(0).integers(-2, 2, (6, 4)).astype(np.int8)
    before = models.parse(
        text(
            """
            a = Div(w, powers) b = Mod(a, base) c = Sub(b, half) e = Cast<to=3>(c)
            f = Reshape(e, row) h = Slice(f, start, stop) k = Reshape(h, shape)
            d = DequantizeLinear(k, s) y = MatMul(x, d)
            """,
            "int64[1,1] w, int64[31] powers, int64 base = {4}, int64 half = {2}, int64[1] row = {-1}, "
            "int64[1] start = {0}, int64[1] stop = {24}, int64[2] shape = {6, 4}, float s = {0.3}",
        ),
        weights={"w": to_words(codes, 2), "powers": 4 ** np.arange(31, dtype=np.int64)},
    )
    model = ir.from_proto(before)
    (weight,) = _folded(model)
    np.testing.assert_array_equal(weight.const_value.numpy(), codes * np.float32(0.3))
    assert models.largest_difference(before, model) < TOLERANCE


def _folded(model):
    fold = FoldDequantizers()
    assert fold.call(model).modified
    return fold.folded


def test_a_bias_has_the_product_of_two_scales():
    given = text(
        """
        t = Mul(xs, ws) b = DequantizeLinear<axis=0>(bias, t) w = DequantizeLinear<axis=0>(codes, ws)
        y = Gemm<transB=1>(x, w, b)
        """,
        "int32[4] bias = {100, -2000, 30, 7}, float xs = {0.02}, float[4] ws = {0.1, 0.2, 0.3, 0.4}, int8[4,6] codes",
    )
    weights = {"codes": CODES.T}
    model = models.graph(given, weights=weights)
    bias, weight = _folded(model)
    assert (bias.name, weight.name) == ("b", "w")
    scales = np.float32(0.02) * np.float32([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(bias.const_value.numpy(), np.float32([100, -2000, 30, 7]) * scales)
    assert models.largest_difference(models.parse(given, weights=weights), model) < TOLERANCE


def test_all_readers_get_the_constant_and_shared_codes_stay_for_others():
    given = text(
        "d = DequantizeLinear(w, s) e = DequantizeLinear(w, t) a = MatMul(x, d) b = MatMul(x, e) c = MatMul(x, d) "
        "f = Add(a, b) y = Add(f, c)",
        "int8[6,4] w, float s = {0.1}, float t = {0.2}",
    )
    model = models.graph(given, weights={"w": CODES})
    assert len(_folded(model)) == 2
    assert models.largest_difference(models.parse(given, weights={"w": CODES}), model) < TOLERANCE


@pytest.mark.parametrize(
    ("body", "constants", "inputs", "outputs"),
    [
        ("y = DequantizeLinear(x, s)", "float s = {0.1}", "uint8[N,4] x", "float[N,4] y"),
        ("y = DequantizeLinear(w, s)", "float s = {0.1}, uint8[4] w", "float[4] x", "float[4] y"),
        ("y = MatMul(x, w)", "float[6,4] w", "float[N,6] x", "float[N,4] y"),
    ],
)
def test_what_is_not_constant_or_is_an_output_stays(body, constants, inputs, outputs):
    weights = {"w": np.ones(4)} if "uint8[4]" in constants else None
    model = models.graph(text(body, constants, inputs, outputs), weights=weights)
    before = models.operators(model)
    outcome = FoldDequantizers().call(model)
    assert not outcome.modified and not outcome.refusals and models.operators(model) == before


def test_a_scale_that_is_computed_is_refused_with_the_reason():
    given = text(
        "s = ReduceMax<keepdims=0>(x) d = DequantizeLinear(w, s) y = MatMul(x, d)",
        "int8[6,4] w",
        outputs="float[N,4] y",
    )
    model = models.graph(given, weights={"w": CODES})
    outcome = FoldDequantizers().call(model)
    assert not outcome.modified
    assert outcome.refusals[0].reason == "its scale is computed at run time"


def test_the_comparison_sees_a_wrong_fold(monkeypatch):
    given = text(LAYER.format(axis=""), "int8[6,4] w, float s = {0.1}, int8 z = {3}")
    monkeypatch.setattr(fold_dequantizers, "constant_codes", lambda value: value.const_value.numpy() + 1)
    model = models.graph(given, weights={"w": CODES})
    FoldDequantizers().call(model)
    assert models.largest_difference(models.parse(given, weights={"w": CODES}), model) > 0.01


def test_the_result_is_a_valid_model():
    given = text(LAYER.format(axis=""), "int8[6,4] w, float s = {0.1}, int8 z = {3}")
    model = models.graph(given, weights={"w": CODES})
    _folded(model)
    onnx.checker.check_model(models.to_proto(model), full_check=True)
