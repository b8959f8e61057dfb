"""Samples of the user's own: what fits comes through unchanged, what does not is refused with file, input and value."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from tests.models import parse
from zsq_compile.compiler import compile_model
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError
from zsq_compile.stages.given_samples import fit_samples

TOKENS = """<ir_version: 10, opset_import: ["" : 21]>
    net (int64[N,6] ids) => (float[N,4] y) <float[50,8] table, float[6,8] places, float[8,4] w, int64[1] all = {-1}>
    { flat = Reshape(ids, all) short = Cast<to=6>(flat) rows = Gather(table, short) s = Shape(ids)
      e = Constant<value_ints=[8]>() shape = Concat<axis=0>(s, e) shaped = Reshape(rows, shape)
      sum = Add(shaped, places) m = ReduceMean<keepdims=0>(sum, axis) y = MatMul(m, w) }""".replace(
    "int64[1] all", "int64[1] axis = {1}, int64[1] all"
)
IDS = InputSpec(name="ids", shape=(None, 6), dtype=np.dtype(np.int64))
IMAGE = InputSpec(name="x", shape=(None, 3), dtype=np.dtype(np.float32))
PIXELS = InputSpec(name="x", shape=(None, 3), dtype=np.dtype(np.uint8))
EMPTY = ir.from_proto(parse("net (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"))


def ids(*, high: int = 50, dtype: type = np.int64) -> NDArray[np.generic]:
    drawn = np.random.default_rng(0).integers(0, 50, (16, 6))
    drawn[3, 2] = high - 1
    return drawn.astype(dtype)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.float32])
def test_whole_numbers_of_any_type_are_taken(dtype: type) -> None:
    fitted = fit_samples(ids(dtype=dtype), IDS, ir.from_proto(parse(TOKENS)), "c.npz")
    assert fitted.dtype == np.int64
    np.testing.assert_array_equal(fitted, ids())


@pytest.mark.parametrize("value", [50, 77, -51])
def test_indices_beyond_a_table_are_refused_behind_casts_and_reshapes(value: int) -> None:
    array = ids()
    array[5, 1] = value
    with pytest.raises(ConfigError, match=rf"c\.npz: 'ids' holds {value}, .*50 rows"):
        fit_samples(array, IDS, ir.from_proto(parse(TOKENS)), "c.npz")


@pytest.mark.parametrize(
    ("array", "spec", "words"),
    [
        (np.full((2, 6), 0.5, np.float32), IDS, r"wants int64, got float32 .*0\.5"),
        (np.full((2, 3), 300), PIXELS, "wants uint8, got int64 .*300"),
        (np.full((2, 3), -1), PIXELS, "wants uint8, got int64 .*-1"),
        (np.full((2, 3), np.nan), IMAGE, "wants float32, got float64 .*nan"),
        (np.full((2, 3), 1e300), IMAGE, r"wants float32, got float64 .*1e\+300"),
        (np.full((2, 3), "a"), IMAGE, "wants float32, got str"),
        (np.full((2, 3), 1j), IMAGE, "wants float32, got complex128"),
    ],
)
def test_values_that_the_input_cannot_hold_are_refused(array: NDArray[np.generic], spec: InputSpec, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fit_samples(array, spec, EMPTY, "c.npz")


@pytest.mark.parametrize(
    "array", [np.array([[0.1, -np.inf, 3.0]]), np.array([[1, 0, 2]]), np.array([[True, False, True]])]
)
def test_floats_may_be_rounded_and_infinite(array: NDArray[np.generic]) -> None:
    fitted = fit_samples(array, IMAGE, EMPTY, "c.npz")
    np.testing.assert_array_equal(fitted, array.astype(np.float32))


def test_the_file_of_the_samples_is_named(tmp_path: Path) -> None:
    onnx.save(parse(TOKENS), tmp_path / "net.onnx")
    np.savez(tmp_path / "mine.npz", ids=ids(high=60))
    with pytest.raises(ConfigError, match=r"mine\.npz: 'ids' holds 59"):
        compile_model(tmp_path / "net.onnx", calibration=tmp_path / "mine.npz")
    np.savez(tmp_path / "mine.npz", other=ids()[:, :5])
    with pytest.raises(ConfigError, match=r"mine\.npz has no array for the input 'ids', only other"):
        compile_model(tmp_path / "net.onnx", calibration=tmp_path / "mine.npz")
