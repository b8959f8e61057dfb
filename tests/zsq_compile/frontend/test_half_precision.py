import numpy as np
import onnx
import pytest

from backends.session import open_session
from tests import models
from tests.zsq_compile.frontend.quick import load_quickly
from zsq_compile.frontend.half_precision import widen_halves
from zsq_compile.frontend.load import load_model

HALF, BRAIN, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT

# Every place where a type can stand: faces, values, weights, constants, attributes, inner graphs.
# The parser takes 16-bit floats by their bits: 14336 is 0.5, 15360 is 1.
TEXT = """
    g (float16[N,3,8,8] x, bool c) => (float16[N,2,8,8] y, float[N,2,8,8] z)
    <float16[2,3,3,3] w, float16[2] b, float16 half = {14336}>
    {
        a = Conv<pads=[1,1,1,1]>(x, w, b)
        one = Constant<value = float16 {15360}>()
        size = Shape(a)
        zeros = ConstantOfShape<value = float16[1] {0}>(size)
        r = Add(a, zeros)
        z = Cast<to=1>(r)
        back = Cast<to=10>(z)
        y = If(c) <then_branch = t () => (float16[N,2,8,8] p) { p = Mul(back, half) },
                   else_branch = e () => (float16[N,2,8,8] q) { q = Add(back, one) }>
    }
"""


def half_model():
    return models.parse(TEXT)


def halved(model):
    """The same network as converters for the GPU write it: all numbers and faces in float16."""
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            numbers = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor.name))
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = HALF
    return model


@pytest.mark.parametrize("chosen", [True, False])
def test_the_same_is_computed_without_the_roundings_of_16_bits(chosen):
    wide = half_model()
    notes = widen_halves(wide)
    onnx.checker.check_model(wide, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float16)
    wanted = open_session(half_model()).run({"x": x, "c": np.array(chosen)})
    got = open_session(wide).run({"x": x.astype(np.float32), "c": np.array(chosen)})
    for name, array in wanted.items():
        assert got[name].dtype == np.float32
        scale = np.abs(array).max()
        np.testing.assert_allclose(got[name], array.astype(np.float32), rtol=0, atol=4e-3 * scale)
    assert len(notes) == 2
    assert "in float16:" in notes[0]
    assert notes[1].endswith(": 'x', 'y'")


def test_no_number_changes():
    half, wide = half_model(), half_model()
    widen_halves(wide)
    for before, after in zip(half.graph.initializer, wide.graph.initializer, strict=True):
        assert (before.name, before.dims) == (after.name, after.dims)
        assert after.data_type == FLOAT
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(before), onnx.numpy_helper.to_array(after))


def test_bfloat16_is_taken_as_well():
    numbers = np.float32([[0.5, -3.0, 1.0078125, 2.0]] * 4)  # all of them have 8 significant bits
    text = "g (float[N,4] x) => (float[N,4] y) <bfloat16[4,4] w> { f = Cast<to=1>(w) y = MatMul(x, f) }"
    model = models.parse(text, weights={"w": numbers})
    assert model.graph.initializer[0].data_type == BRAIN
    assert "in bfloat16:" in widen_halves(model)[0]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), numbers)


def test_a_model_in_float32_is_left_as_it_is():
    model = models.conv_bn_relu()
    before = model.SerializeToString()
    assert widen_halves(model) == ()
    assert model.SerializeToString() == before


def test_a_converted_network_is_loaded_and_told(tmp_path):
    path = tmp_path / "half.onnx"
    onnx.save(halved(models.residual()), path)
    loaded = load_model(path)
    assert {spec.dtype for spec in loaded.inputs} == {np.dtype(np.float32)}
    assert "float16" in loaded.notes[0]
    assert "'x', 'logits'" in loaded.notes[1]
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float16)
    wanted = open_session(path).run({"x": x})["logits"].astype(np.float32)
    got = open_session(loaded.original).run({"x": x.astype(np.float32)})["logits"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-2 * np.abs(wanted).max())
    assert load_quickly(path).notes[:2] == loaded.notes[:2]
