import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from passes.dequantize import restore_dynamic_layers
from passes.dequantize.restore_dynamic_layers import RestoreDynamicLayers
from tests import models

# 255 steps over the range of 30 numbers, and 6 products with weights up to 1.27: 0.02 of the output's magnitude.
TOLERANCE = 0.02
CODES = np.random.default_rng(1).integers(0, 256, (6, 4)).astype(np.uint8)
FRONT = "q, s, z = DynamicQuantizeLinear(x)"
MATRIX = "uint8[6,4] w, float ws = {0.01}, uint8 wz = {120}, float[4] b = {1.0, 2.0, 3.0, 4.0}"


def text(body, constants=MATRIX, inputs="float[5,6] x", outputs="float[A,B] y"):
    return f"g ({inputs}) => ({outputs}) <{constants}> {{ {FRONT} {body} }}"


def restored(given, weights):
    before = models.parse(given, weights=weights)
    model = ir.from_proto(before)
    restore = RestoreDynamicLayers()
    outcome = restore.call(model)
    assert outcome.modified and not outcome.refusals
    common.RemoveUnusedNodesPass()(model)
    assert not RestoreDynamicLayers().call(model).modified
    return before, model, restore.folded


@pytest.mark.parametrize(
    "scaled",
    [
        "t = Mul(s, ws) y = Mul(f, t)",
        "t = Mul(ws, s) y = Mul(t, f)",
        "t = Mul(f, s) y = Mul(t, ws)",
        "t = Mul(ws, f) y = Mul(t, s)",
        "t = Mul(s, ws) m = Mul(f, t) y = Add(m, b)",
    ],
)
def test_a_matrix_product(scaled):
    given = text(f"i = MatMulInteger(q, w, z, wz) f = Cast<to=1>(i) {scaled}")
    before, model, (weight,) = restored(given, {"w": CODES})
    assert models.operators(model) == ["MatMul"] + ["Add"] * ("Add" in scaled)
    np.testing.assert_array_equal(weight.const_value.numpy(), (CODES.astype(np.float32) - 120) * np.float32(0.01))
    assert 0.0 < models.largest_difference(before, model) < TOLERANCE


def test_a_scale_for_each_column():
    constants = "int8[6,4] w, float[4] ws = {0.01, 0.02, 0.03, 0.04}, int8[4] wz = {1, -1, 2, 0}"
    given = text("i = MatMulInteger(q, w, z, wz) f = Cast<to=1>(i) t = Mul(s, ws) y = Mul(f, t)", constants)
    before, model, _ = restored(given, {"w": CODES.view(np.int8)})
    assert models.operators(model) == ["MatMul"]
    assert models.largest_difference(before, model) < TOLERANCE


def test_a_convolution_keeps_its_attributes():
    constants = "uint8[3,2,3,3] w, float ws = {0.01}, uint8 wz = {128}"
    body = "i = ConvInteger<pads=[1,1,0,0], strides=[2,1]>(q, w, z, wz) f = Cast<to=1>(i) t = Mul(s, ws) y = Mul(f, t)"
    given = text(body, constants, "float[2,2,5,5] x", "float[A,B,C,D] y")
    codes = np.random.default_rng(2).integers(0, 256, (3, 2, 3, 3))
    before, model, _ = restored(given, {"w": codes})
    assert models.operators(model) == ["Conv"]
    assert list(model.graph[0].attributes.get_ints("pads")) == [1, 1, 0, 0]
    assert models.largest_difference(before, model) < TOLERANCE


def test_two_layers_may_read_one_quantizer_and_outputs_keep_their_names():
    given = text(
        """
        i = MatMulInteger(q, w, z, wz) f = Cast<to=1>(i) t = Mul(s, ws) y = Mul(f, t)
        j = MatMulInteger(q, v, z, wz) g = Cast<to=1>(j) u = Mul(s, ws) p = Mul(g, u)
        """,
        f"{MATRIX}, uint8[6,4] v",
        outputs="float[A,B] y, float[C,D] p",
    )
    before, model, folded = restored(given, {"w": CODES, "v": CODES[::-1]})
    assert models.operators(model) == ["MatMul", "MatMul"] and len(folded) == 2
    assert models.largest_difference(before, model) < TOLERANCE


@pytest.mark.parametrize(
    ("body", "inputs", "outputs", "reason"),
    [
        ("y = MatMulInteger(q, w, z, wz)", "float[5,6] x", "int32[A,B] y", "not followed by Cast and Mul"),
        ("i = MatMulInteger(q, w, z, wz) f = Cast<to=1>(i) y = Mul(f, s)", "float[5,6] x", "float[A,B] y",
         "not followed by Cast and Mul"),
        ("i = MatMulInteger(q, w, z, wz) f = Cast<to=1>(i) t = Mul(s, ws) m = Mul(f, t) y = Add(m, f)",
         "float[5,6] x", "float[A,B] y", "not followed by Cast and Mul"),
        ("i = MatMulInteger(u, w, z, wz) y = Cast<to=1>(i)", "float[5,6] x, uint8[5,6] u", "float[A,B] y",
         "not made by a DynamicQuantizeLinear"),
        ("i = MatMulInteger(q, w, k, wz) f = Cast<to=1>(i) t = Mul(s, ws) y = Mul(f, t)", "float[5,6] x, uint8 k",
         "float[A,B] y", "its zero point is not that"),
        ("i = MatMulInteger(q, u, z, wz) f = Cast<to=1>(i) t = Mul(s, ws) y = Mul(f, t)",
         "float[5,6] x, uint8[6,4] u", "float[A,B] y", "its weight is not constant"),
        ("i = MatMulInteger(q, w, z, wz) f = Cast<to=1>(i) t = Mul(s, rows) y = Mul(f, t)", "float[5,6] x",
         "float[A,B] y", "wanted one number, or one for each column"),
    ],
)  # fmt: skip
def test_other_patterns_stay_and_say_why(body, inputs, outputs, reason):
    given = text(body, f"{MATRIX}, float[5,1] rows", inputs, outputs)
    model = models.graph(given, weights={"w": CODES})
    before = models.operators(model)
    outcome = RestoreDynamicLayers().call(model)
    assert not outcome.modified and models.operators(model) == before
    assert reason in outcome.refusals[0].reason


def test_the_comparison_sees_a_wrong_weight(monkeypatch):
    right = restore_dynamic_layers._pattern

    def wrong(node):
        pattern = right(node)
        return restore_dynamic_layers._Pattern(
            data=pattern.data, weight=pattern.weight[:, ::-1].copy(), result=pattern.result
        )

    monkeypatch.setattr(restore_dynamic_layers, "_pattern", wrong)
    given = text("i = MatMulInteger(q, w, z, wz) f = Cast<to=1>(i) t = Mul(s, ws) y = Mul(f, t)")
    before, model, _ = restored(given, {"w": CODES})
    assert models.largest_difference(before, model) > TOLERANCE
