"""Whole compilations of files with open sizes, a fixed batch, and states: what is written has the float file's face."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from backends.session import open_session
from tests import models
from zsq_compile import CompileConfig, PriorConfig, compile_model
from zsq_compile.config.compile import InputConfig
from zsq_compile.metrics import sqnr_db
from zsq_compile.packaging.build import build_package

CONFIG = CompileConfig(effort="fast", generator=PriorConfig(), samples=16, speed_trials=False)
LEAST_DB = 18.0
"""8 bits, on noise, with ranges from a few made samples: 22 to 40 dB; what is fed or padded wrongly is below 10."""

# Strides and padding that depend on the size, a map that is brought to the size of another, and a shape that the graph
# computes: all of them have constants that a fixed size would leave.
OPEN = """
    net (float[N,3,H,W] x) => (float[N,L,4] y, float[N,8,P,Q] map)
    <float[8,3,3,3] w0, float[8,8,3,3] w1, float[4,8,1,1] w2, int64[1] two = {2}, int64[1] four = {4},
     int64[1] zero = {0}, int64[2] tail = {4, -1}, float roi, float[1] none>
    {
        a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w0)
        r = Relu(a)
        b = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w1)
        q = Relu(b)
        s = Shape(r)
        end = Slice(s, two, four)
        t = Shape(q)
        front = Slice(t, zero, two)
        sizes = Concat<axis=0>(front, end)
        u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(q, , , sizes)
        map = Add(u, r)
        c = Conv(map, w2)
        count = Slice(s, zero, one_)
        shape = Concat<axis=0>(count, tail)
        f = Reshape(c, shape)
        y = Transpose<perm=[0,2,1]>(f)
    }
""".replace("float roi, float[1] none", "int64[1] one_ = {1}")


def dims(path: Path) -> dict[str, list[int | str]]:
    graph = onnx.load(path).graph
    return {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


def least_ratio(float_file: Path, quantized: Path, feeds: dict[str, NDArray[np.float32]]) -> float:
    """Lowest SQNR of the outputs, dB; their shapes must be equal."""
    wanted, got = (open_session(path).run(feeds) for path in (float_file, quantized))
    for name, array in wanted.items():
        assert got[name].shape == array.shape
    return min(sqnr_db(array, got[name]) for name, array in wanted.items())


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("open")
    onnx.save(models.parse(OPEN), folder / "net.onnx")
    result = compile_model(folder / "net.onnx", folder / "q.onnx", CONFIG)
    return folder / "net.onnx", folder / "q.onnx", result.report.notes


def test_open_sizes_stay_open(compiled: tuple[Path, Path, tuple[str, ...]]) -> None:
    given, made, notes = compiled
    assert dims(made) == dims(given)
    assert any("leaves sizes open: worked with at ?x3x" in note for note in notes)
    assert sum("run at other sizes, too" in note for note in notes) == 2


@pytest.mark.parametrize("shape", [(1, 3, 40, 40), (2, 3, 64, 48), (3, 3, 37, 51), (1, 3, 16, 100)])
def test_the_file_runs_at_any_size(shape: tuple[int, ...], compiled: tuple[Path, Path, tuple[str, ...]]) -> None:
    given, made, _ = compiled
    rng = np.random.default_rng(0)
    assert least_ratio(given, made, {"x": rng.uniform(-2, 2, shape).astype(np.float32)}) > LEAST_DB


def test_a_package_of_it_has_samples(compiled: tuple[Path, Path, tuple[str, ...]], tmp_path: Path) -> None:
    package = build_package(compiled[1], tmp_path / "package", count=2, ort=False)
    assert package.manifest["inputs"][0]["shape"] == [None, 3, None, None]


def test_sizes_are_written_where_asked(tmp_path: Path) -> None:
    onnx.save(models.parse(OPEN), tmp_path / "net.onnx")
    sizes = InputConfig(shapes={"x": (None, 3, 24, 32)}, fix_shapes=True)
    compile_model(tmp_path / "net.onnx", tmp_path / "q.onnx", replace(CONFIG, input=sizes))
    assert dims(tmp_path / "q.onnx")["x"] == ["N", 3, 24, 32]


def test_a_fixed_batch_comes_back(tmp_path: Path) -> None:
    text = """
        net (float[1,3,16,16] x) => (float[1,10] y)
        <float[8,3,3,3] w0, float[10,392] m0, int64[2] s = {1, 392}>
        { a = Conv<strides=[2,2]>(x, w0) r = Relu(a) f = Reshape(r, s) y = Gemm<transB=1>(f, m0) }
    """
    onnx.save(models.parse(text), tmp_path / "net.onnx")
    result = compile_model(tmp_path / "net.onnx", tmp_path / "q.onnx", CONFIG)
    assert dims(tmp_path / "q.onnx") == dims(tmp_path / "net.onnx")
    assert result.synthetic is not None and len(result.synthetic.inputs["x"]) == 20
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)}
    assert least_ratio(tmp_path / "net.onnx", tmp_path / "q.onnx", feeds) > LEAST_DB


@pytest.mark.parametrize(("batch", "given"), [("N", False), ("1", False), ("1", True)])
def test_a_state_comes_back_to_its_axis(batch: str, given: bool, tmp_path: Path) -> None:
    text = f"""
        net (float[{batch},7,6] x, float[1,{batch},5] h) => (float[{batch},3] y, float[1,{batch},5] state)
        <float[1,15,6] w0, float[1,15,5] r0, float[5,3] m0, int64[1] zero = {{0}}>
        {{ t = Transpose<perm=[1,0,2]>(x) s, state = GRU<hidden_size=5>(t, w0, r0, , , h)
           last = Squeeze(state, zero) y = Gemm(last, m0) }}
    """
    onnx.save(models.parse(text), tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    shapes = {"x": (8, 7, 6), "h": (1, 8, 5)}
    calibration = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    compile_model(tmp_path / "net.onnx", tmp_path / "q.onnx", CONFIG, calibration=calibration if given else None)
    assert dims(tmp_path / "q.onnx") == dims(tmp_path / "net.onnx")
    count = 1 if batch == "1" else 2
    feeds = {"x": calibration["x"][:count], "h": calibration["h"][:, :count]}
    assert least_ratio(tmp_path / "net.onnx", tmp_path / "q.onnx", feeds) > LEAST_DB
