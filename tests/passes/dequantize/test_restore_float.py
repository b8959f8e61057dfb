import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.session import open_session
from passes.dequantize.restore_float import RestoreFloat
from tests import models

HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
LAYERS = """
    g (float[N,3,8,8] x) => (float[N,5] y)
    <float xs = {0.05}, uint8 xz = {128}, float as = {0.02}, float[4] ws = {0.01, 0.02, 0.01, 0.03}, int8[4,3,3,3] w,
     int32[4] bias = {100, 200, -300, 400}, float[5,4] v>
    {
        [first] q = QuantizeLinear(x, xs, xz)
        d = DequantizeLinear(q, xs, xz)
        dw = DequantizeLinear<axis=0>(w, ws)
        bs = Mul(xs, ws)
        b = DequantizeLinear<axis=0>(bias, bs)
        c = Conv(d, dw, b)
        r = Relu(c)
        p = QuantizeLinear(r, as)
        e = DequantizeLinear(p, as)
        h = GlobalAveragePool(e)
        f = Flatten(h)
        y = Gemm<transB=1>(f, v)
    }
"""
WEIGHTS = {"w": np.random.default_rng(5).integers(-128, 128, (4, 3, 3, 3))}


def test_a_network_quantized_in_part():
    before = models.parse(LAYERS, weights=WEIGHTS)
    model = ir.from_proto(before)
    restored = RestoreFloat().call(model)
    assert models.operators(model) == ["Clip", "Conv", "Clip", "GlobalAveragePool", "Flatten", "Gemm"]
    assert (restored.layers, restored.restored_layers, restored.ranges, restored.needless) == (2, 1, 2, 0)
    assert (restored.levels, restored.dynamic, restored.kept, restored.refusals) == (256, 0, (), ())
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    assert set(model.graph.initializers) >= {"dw", "b", "v"}
    assert not {"w", "bias", "ws", "bs"} & set(model.graph.initializers)
    # inputs of 2 in steps of 0.05, averaged by a filter of 27 numbers: well below one in a hundred
    assert 0.0 < models.largest_difference(before, after) < 0.01
    assert not RestoreFloat().call(model).modified


@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches, models.padded])
def test_a_float_model_is_not_touched(make):
    model = ir.from_proto(make())
    before = ir.to_proto(model).SerializeToString()
    restored = RestoreFloat().call(model)
    assert not restored.modified and not restored.refusals
    assert ir.to_proto(model).SerializeToString() == before


def test_codes_at_the_border_keep_their_quantizers():
    before = models.parse(
        """
        g (uint8[N,4] x, float[N,4] u) => (uint8[N,4] y, int8[N,4] z)
        <float s = {0.1}, uint8 zero = {128}, int8[4,4] w, int8 none = {0}>
        {
            [x_QuantizeLinear] d = DequantizeLinear(x, s, zero)
            dw = DequantizeLinear(w, s)
            m = MatMul(d, dw)
            a = Add(m, u)
            q = QuantizeLinear(a, s, zero)
            e = DequantizeLinear(q, s, zero)
            n = Neg(e)
            y = QuantizeLinear(n, s, zero)
            k = QuantizeLinear(n, s, none)
            z = Transpose<perm=[0,1]>(k)
        }
        """,
        weights={"w": np.arange(-8, 8)},
    )
    model = ir.from_proto(before)
    restored = RestoreFloat().call(model)
    assert restored.kept == ("x", "y", "z") and not restored.refusals and restored.modified
    assert models.operators(model) == [
        "DequantizeLinear", "MatMul", "Add", "Clip", "Neg", "QuantizeLinear", "QuantizeLinear", "Transpose",
    ]  # fmt: skip
    # names that InsertQdq would want for quantizers of its own are free again
    assert {node.name for node in model.graph if "Quantize" in node.op_type or "Dequantize" in node.op_type} == {
        "x_QuantizeLinear_border", "QuantizeLinear_y_border", "QuantizeLinear_k_border",
    }  # fmt: skip
    assert not RestoreFloat().call(model).modified
    rng = np.random.default_rng(0)
    feeds = {"x": rng.integers(0, 256, (9, 4)).astype(np.uint8), "u": rng.standard_normal((9, 4)).astype(np.float32)}
    one, other = (open_session(each, optimize="none").run(feeds) for each in (before, ir.to_proto(model)))
    for name in ("y", "z"):  # what was rounded to codes before is rounded once
        assert one[name].dtype == other[name].dtype
        assert np.abs(one[name].astype(int) - other[name]).max() <= 1


def test_initializers_among_the_inputs_are_no_border():
    before = models.parse(LAYERS, weights=WEIGHTS)
    for tensor in before.graph.initializer:
        before.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model = ir.from_proto(before)
    restored = RestoreFloat().call(model)
    assert not restored.refusals and restored.kept == () and [value.name for value in model.graph.inputs] == ["x"]


@pytest.mark.parametrize(
    ("body", "op_type", "reason"),
    [
        ("y = com.microsoft.MatMulNBits<K=4, N=4, bits=4, block_size=16>(x, b, s)", "MatMulNBits", "not supported"),
        ("q = QuantizeLinear(x, one, z) i = MatMulInteger(q, b, z) y = Cast<to=1>(i)", "MatMulInteger",
         "not made by a DynamicQuantizeLinear"),
        ("q = QuantizeLinear(x, one, z) y = Cast<to=1>(q)", "QuantizeLinear", "'Cast_y' (Cast) reads its codes"),
        ("m = ReduceMax<keepdims=0>(x) q = QuantizeLinear(x, m, z) y = DequantizeLinear(q, m, z)", "QuantizeLinear",
         "reads its codes"),
        ("q, t, k = DynamicQuantizeLinear(x) y = DequantizeLinear(q, t, k)", "DynamicQuantizeLinear", "not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_out_is_named(body, op_type, reason):
    text = (
        f"{HEADER} g (float[N,4] x) => (float[N,4] y) <uint8[4,4] b, float[4] s, float one = {{1.0}}, "
        f"uint8 z = {{0}}> {{ {body} }}"
    )
    parsed = onnx.parser.parse_model(text)
    for name, array in (("b", np.ones((4, 4), np.uint8)), ("s", np.ones(4, np.float32))):
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    restored = RestoreFloat().call(ir.from_proto(parsed))
    found = {refusal.op_type: refusal.reason for refusal in restored.refusals}
    assert reason in found[op_type]
    assert all(refusal.where for refusal in restored.refusals)


def test_quantizers_inside_of_branches_are_named():
    model = models.graph(
        """
        g (float[N,4] x, bool c) => (float[N,4] y) <float s = {0.1}, uint8 z = {3}>
        {
            y = If (c) <then_branch = t () => (float[N,4] a) { q = QuantizeLinear(x, s, z)
                                                              a = DequantizeLinear(q, s, z) },
                        else_branch = e () => (float[N,4] b) { b = Identity(x) }>
        }
        """
    )
    restored = RestoreFloat().call(model)
    assert {refusal.op_type for refusal in restored.refusals} == {"QuantizeLinear", "DequantizeLinear"}


def test_a_deep_network_is_no_problem():
    body = " ".join(
        f"q{i} = QuantizeLinear(v{i}, s, z) d{i} = DequantizeLinear(q{i}, s, z) v{i + 1} = Neg(d{i})"
        for i in range(700)
    )
    given = f"g (float[N] x) => (float[N] v700) <float s = {{0.1}}, uint8 z = {{3}}> {{ v0 = Abs(x) {body} }}"
    restored = RestoreFloat().call(models.graph(given))
    assert restored.ranges == 700 and not restored.refusals
    given = given.replace("d699 = DequantizeLinear(q699, s, z)", "t = ReduceMax<keepdims=0>(v699) "
                          "d699 = DequantizeLinear(q699, t, z)")  # fmt: skip
    restored = RestoreFloat().call(models.graph(given))
    assert any("its scale is computed at run time" in refusal.reason for refusal in restored.refusals)
