import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.session import open_session
from passes.dequantize import expand_qlinear
from passes.dequantize.expand_qlinear import ExpandQlinear
from tests import models

HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
GRIDS = (
    "float xs = {0.02}, uint8 xz = {120}, float ws = {0.01}, int8 wz = {2}, float ys = {0.05}, uint8 yz = {100}, "
    "float us = {0.03}, uint8 uz = {10}"
)
IMAGE, MATRIX = "uint8[2,4,6,6] x", "uint8[5,6] x"


def text(body, inputs, more="", output="uint8[A,B,C,D] y"):
    return f"{HEADER} g ({inputs}) => ({output}) <{GRIDS}{', ' if more else ''}{more}> {{ {body} }}"


def parsed(given, weights):
    """Like ``models.parse``; the checker knows nothing of onnxruntime's own operators."""
    model = onnx.parser.parse_model(given)
    rng = np.random.default_rng(0)
    made = {name for node in model.graph.node for name in node.output}
    for value in [value for value in model.graph.value_info if value.name not in made]:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        array = np.resize(weights[value.name], shape) if value.name in weights else rng.integers(-100, 100, shape)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype), value.name))
        model.graph.value_info.remove(value)
    return model


def expanded(given, weights):
    before = parsed(given, weights)
    model = ir.from_proto(before)
    outcome = ExpandQlinear().call(model)
    assert outcome.modified and not outcome.refusals
    onnx.checker.check_model(ir.to_proto(model))
    assert not ExpandQlinear().call(model).modified
    return before, model


def codes_apart(before, model):
    """Largest difference in codes; both round, and a sum that lies on a tie may go either way."""
    rng = np.random.default_rng(3)
    feeds = {
        value.name: rng.integers(0, 256, [dim.dim_value for dim in value.type.tensor_type.shape.dim]).astype(np.uint8)
        for value in before.graph.input
    }
    one, other = (
        open_session(each, threads=1, optimize="none").run(feeds)["y"] for each in (before, ir.to_proto(model))
    )
    assert one.shape == other.shape and one.dtype == other.dtype and len(np.unique(one)) > 5
    return np.abs(one.astype(np.float64) - other).max()


COLUMNS = "float[3] wv, int8[3] wzv"
CASES = [
    ("y = QLinearConv<pads=[1,1,1,1]>(x, xs, xz, w, ws, wz, ys, yz)", IMAGE, "int8[3,4,3,3] w", "Conv"),
    ("y = QLinearConv<strides=[2,2]>(x, xs, xz, w, wv, wzv, ys, yz, b)", IMAGE,
     f"int8[3,4,3,3] w, {COLUMNS}, int32[3] b", "Conv"),
    ("y = QLinearConv<group=4>(x, xs, xz, w, ws, wz, ys, yz, b)", IMAGE, "int8[4,1,3,3] w, int32[4] b", "Conv"),
    ("y = QLinearMatMul(x, xs, xz, w, ws, wz, ys, yz)", MATRIX, "int8[6,3] w", "MatMul"),
    ("y = QLinearMatMul(x, xs, xz, w, wv, wzv, ys, yz)", MATRIX, f"int8[6,3] w, {COLUMNS}", "MatMul"),
    ("y = QLinearMatMul(x, xs, xz, u, us, uz, ys, yz)", f"{MATRIX}, uint8[6,3] u", "", "MatMul"),
    ("y = com.microsoft.QGemm(x, xs, xz, w, ws, wz, b, ys, yz)", MATRIX, "int8[6,3] w, int32[3] b", "Gemm"),
    ("y = com.microsoft.QGemm<transB=1, alpha=0.5>(x, xs, xz, w, wv, wzv, b, ys, yz)", MATRIX,
     f"int8[3,6] w, {COLUMNS}, int32[3] b", "Gemm"),
    ("y = com.microsoft.QGemm(x, xs, xz, w, ws, wz, , ys, yz)", MATRIX, "int8[6,3] w", "Gemm"),
    ("y = com.microsoft.QLinearAdd(x, xs, xz, u, us, uz, ys, yz)", f"{IMAGE}, uint8[2,4,6,6] u", "", "Add"),
    ("y = com.microsoft.QLinearMul(x, xs, xz, u, us, uz, ys, yz)", f"{IMAGE}, uint8[2,4,1,1] u", "", "Mul"),
    ("y = com.microsoft.QLinearConcat<axis=1>(ys, yz, x, xs, xz, u, us, uz)", f"{IMAGE}, uint8[2,2,6,6] u", "",
     "Concat"),
    ("y = com.microsoft.QLinearGlobalAveragePool<channels_last=0>(x, xs, xz, us, uz)", "uint8[9,4,2,2] x", "",
     "GlobalAveragePool"),
    ("y = com.microsoft.QLinearAveragePool<kernel_shape=[2,2], strides=[2,2]>(x, xs, xz, ys, yz)", IMAGE, "",
     "AveragePool"),
    ("y = com.microsoft.QLinearLeakyRelu<alpha=0.2>(x, xs, xz, ys, yz)", IMAGE, "", "LeakyRelu"),
    ("y = com.microsoft.QLinearSigmoid(x, us, xz, sixty, zero)", IMAGE, "float sixty = {0.016}, uint8 zero = {0}",
     "Sigmoid"),
    ("y = com.microsoft.QLinearSoftmax<axis=-1, opset=21>(x, us, xz, sixty, zero)", IMAGE,
     "float sixty = {0.004}, uint8 zero = {0}", "Softmax"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "inputs", "more", "op_type"), CASES)
def test_every_operator_is_its_float_between_quantizers(body, inputs, more, op_type):
    rank = 4 if "[2,4,6,6]" in inputs or "[9,4" in inputs else 2
    given = text(body, inputs, more, "uint8[A,B,C,D] y" if rank == 4 else "uint8[A,B] y")
    before, model = expanded(given, {"wv": [0.01, 0.02, 0.005], "wzv": [1, 0, -3]})
    operators = models.operators(model)
    assert operators[-2:] == [op_type, "QuantizeLinear"] and set(operators[:-2]) == {"DequantizeLinear"}
    # tables and fixed point in the runtime's own kernels are off by one code
    assert codes_apart(before, model) <= 1


def test_a_gemm_without_a_scale_of_its_own_makes_floats():
    given = text("y = com.microsoft.QGemm(x, xs, xz, w, ws, wz, b)", MATRIX, "int8[6,3] w, int32[3] b", "float[A,B] y")
    before, model = expanded(given, {})
    assert models.operators(model)[-1] == "Gemm"
    assert codes_apart(before, model) < 1e-4


def test_names_of_outputs_stay():
    given = text("c = QLinearConv(x, xs, xz, w, ws, wz, ys, yz) y = Transpose(c)", IMAGE, "int8[3,4,3,3] w")
    _, model = expanded(given, {})
    assert model.graph[-1].inputs[0].name == "c"
    given = given.replace("y = Transpose(c)", "y = Identity(c)").replace("uint8[A,B,C,D] y", "uint8[A,B,C,D] c")
    _, model = expanded(given.replace("y = Identity(c)", ""), {})
    assert [value.name for value in model.graph.outputs] == ["c"]


@pytest.mark.parametrize(
    ("body", "inputs", "reason"),
    [
        ("y = com.microsoft.QLinearGlobalAveragePool<channels_last=1>(x, xs, xz, us, uz)", IMAGE, "channels come last"),
        ("y = com.microsoft.QLinearSoftmax<axis=1, opset=12>(x, us, xz, us, uz)", IMAGE, "opset before 13"),
        ("y = QLinearConv(x, v, xz, w, ws, wz, ys, yz, b)", f"{IMAGE}, float v", "scale of its bias is computed"),
        ("y = QLinearMatMul(x, xs, xz, u, t, k, ys, yz)", "uint8[2,5,6] x, uint8[2,6,3] u", "one for each column"),
    ],
)
def test_what_cannot_be_expanded_stays_and_says_why(body, inputs, reason):
    more = "int8[3,4,3,3] w, int32[3] b, float[2,1,3] t, uint8[2,1,3] k"
    model = ir.from_proto(parsed(text(body, inputs, more), {}))
    outcome = ExpandQlinear().call(model)
    assert not outcome.modified and len(model.graph) == 1
    assert reason in outcome.refusals[0].reason


def test_namesakes_of_other_domains_and_float_models_are_left_alone():
    model = models.graph("g (float[N,4] x) => (float[N,4] y) <float[4,4] w> { y = MatMul(x, w) }")
    assert not ExpandQlinear().call(model).modified
    given = text("y = com.microsoft.QLinearReduceMean<axes=[2]>(x, xs, xz, ys, yz)", IMAGE)
    outcome = ExpandQlinear().call(ir.from_proto(parsed(given, {})))
    assert not outcome.modified and not outcome.refusals


def test_the_comparison_sees_a_wrong_scale(monkeypatch):
    monkeypatch.setattr(expand_qlinear, "known_value", lambda value: np.float32(3.0) * value.const_value.numpy())
    given = text(CASES[1][0], IMAGE, CASES[1][2])
    before = parsed(given, {"wv": [0.01, 0.02, 0.005], "wzv": [1, 0, -3], "b": [3000, -4000, 5000]})
    model = ir.from_proto(before)
    ExpandQlinear().call(model)
    assert codes_apart(before, model) > 1
