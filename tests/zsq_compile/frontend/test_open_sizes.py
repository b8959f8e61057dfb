"""Graphs with open sizes whose constants depend on them: the model inside computes what the file does at any size."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from backends.session import open_session
from tests import models
from zsq_compile.frontend.equivalence import TOLERANCE, difference
from zsq_compile.frontend.load import load_model

FIXED = {
    "attention": """net (float[1,T,32] x) => (float[1,T,32] y)
        <float[32,32] w, int64[3] heads = {4,-1,8}, int64[3] back = {1,-1,32}>
        { q = MatMul(x, w) h = Reshape(q, heads) t = Transpose<perm=[0,2,1]>(h) s = MatMul(h, t)
          p = Softmax(s) o = MatMul(p, h) y = Reshape(o, back) }""",
    "rows of two": """net (float[2,T,8] x) => (float[2,T,8] y)
        <float[8,8] w, int64[2] rows = {-1,8}, int64[3] back = {2,-1,8}>
        { r = Reshape(x, rows) m = MatMul(r, w) y = Reshape(m, back) }""",
}
AT_MOST_64 = """net (float[N,T,8] x) => (float[N,16] y)
    <float[8,16] w, int64[1] zero = {0}, int64[1] most = {64}, int64[1] one = {1}, int64 second = {1}>
    { m = MatMul(x, w) s = Slice(m, zero, most, one) n = Shape(s) c = Gather(n, second) f = Cast<to=1>(c)
      t = ReduceSum<keepdims=0>(s, one) y = Div(t, f) }"""
STEPS_FIRST = """net (float[T,1,8] x) => (float[T,1,1,16] y) <float[1,64,8] w, float[1,64,16] r>
    { y = LSTM<hidden_size=16>(x, w, r) }"""


def require_same(text: str, shapes: list[tuple[int, ...]], folder: Path) -> None:
    path, written = folder / "model.onnx", folder / "written.onnx"
    onnx.save(models.parse(text), path)
    loaded = load_model(path)
    loaded.face.write(loaded.model, written)
    before, after = open_session(path), open_session(written)
    for shape in shapes:
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        assert difference(before.run({"x": x})["y"], after.run({"x": x})["y"]) < TOLERANCE


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_batch_is_opened_only_where_that_is_right_at_all_sizes(name: str, tmp_path: Path) -> None:
    text = FIXED[name]
    batch, width = (1, 32) if name == "attention" else (2, 8)
    require_same(text, [(batch, length, width) for length in (128, 192, 64, 16)], tmp_path)


def test_a_length_that_is_cut_is_not_taken_for_a_constant(tmp_path: Path) -> None:
    require_same(AT_MOST_64, [(2, length, 8) for length in (128, 64, 32, 16)], tmp_path)


def test_the_batch_of_a_recurrent_network_is_not_its_first_axis(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(models.parse(STEPS_FIRST), path)
    loaded = load_model(path)
    assert loaded.inputs[0].batch_axis == 1 and loaded.inputs[0].shape[1] not in (None, 1)
    require_same(STEPS_FIRST, [(7, 1, 8), (30, 1, 8)], tmp_path)
