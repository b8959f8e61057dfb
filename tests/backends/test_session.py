import json
import math
import subprocess
import sys

import numpy as np
import onnx
import pytest

from backends import detach_weights
from backends import session as session_module
from backends.session import RuntimeModelError, open_session
from tests.models import conv_bn_relu, parse


def test_outputs_equal_the_closed_form(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,2] x, int64[2] k) => (float[N,2] y, int64[2] z)'
        "{ y = Add(x, x) z = Neg(k) }"
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    feeds = {"x": np.float32([[1, 2]]), "k": np.int64([3, 4])}
    for source in (model, path):
        session = open_session(source, threads=1)
        results = session.run(feeds)
        np.testing.assert_array_equal(results["y"], [[2, 4]])
        np.testing.assert_array_equal(results["z"], [-3, -4])
        assert list(session.run(feeds, ["z"])) == ["z"]
        assert session.input_names == ("x", "k")
        assert session.input_shapes == {"x": (None, 2), "k": (2,)}
        assert session.input_dtypes == {"x": np.float32, "k": np.int64}


@pytest.mark.parametrize("optimize", ["all", "basic", "none"])
def test_optimised_graph_is_saved_and_runs(tmp_path, optimize):
    model = conv_bn_relu()
    saved = tmp_path / "optimised.onnx"
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    wanted = open_session(model, threads=1, optimize=optimize, optimized_path=saved).run({"x": x})["y"]
    operators = {node.op_type for node in onnx.load(saved, load_external_data=False).graph.node}
    assert ("BatchNormalization" in operators) == (optimize == "none")
    got = open_session(saved, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_model_too_large_for_one_message_goes_through_a_folder(monkeypatch):
    model = conv_bn_relu()
    x = np.ones((1, 3, 8, 8), np.float32)
    wanted = open_session(model, threads=1).run({"x": x})["y"]
    before = model.SerializeToString()
    monkeypatch.setattr(session_module.onnx.checker, "MAXIMUM_PROTOBUF", 1)
    got = open_session(model, threads=1).run({"x": x})["y"]
    np.testing.assert_array_equal(got, wanted)
    assert model.SerializeToString() == before


def test_large_weights_go_through_a_file_of_their_own(monkeypatch, tmp_path):
    model = conv_bn_relu()
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    wanted = open_session(model, threads=1).run({"x": x})["y"]
    before = model.SerializeToString()
    monkeypatch.setattr(detach_weights, "_LARGE", 16)
    monkeypatch.setattr(detach_weights, "_MANY", 16)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = detach_weights.save_apart(model, tmp_path)
    large = sum(4 * math.prod(tensor.dims) for tensor in model.graph.initializer if math.prod(tensor.dims) >= 16)
    assert path.stat().st_size < len(before) - large // 2
    assert (tmp_path / "weights").stat().st_size >= large
    np.testing.assert_array_equal(open_session(model, threads=1).run({"x": x})["y"], wanted)
    assert model.SerializeToString() == before


def test_errors_come_in_words(tmp_path):
    session = open_session(conv_bn_relu(), threads=1)
    with pytest.raises(RuntimeModelError, match="no input 'wrong'; its inputs are x"):
        session.run({"wrong": np.zeros(1, np.float32)})
    with pytest.raises(RuntimeModelError, match="no output 'wrong'; its outputs are y"):
        session.run({"x": np.zeros((1, 3, 8, 8), np.float32)}, ["wrong"])
    with pytest.raises(RuntimeModelError, match=r"x float32\[1, 4, 8, 8\]"):
        session.run({"x": np.zeros((1, 4, 8, 8), np.float32)})
    with pytest.raises(RuntimeModelError, match="there is no file"):
        open_session(tmp_path / "absent.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(RuntimeModelError, match="cannot load"):
        open_session(broken)
    with pytest.raises(RuntimeModelError, match=r"has only .*CPUExecutionProvider"):
        open_session(conv_bn_relu(), providers=("NoSuchProvider",))


def test_importing_backends_loads_no_runtime():
    code = "import sys, backends; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_external_weights_are_taken_from_memory() -> None:
    model = parse("net (float[N,40] x) => (float[N,30] y) <float[40,30] w> { y = MatMul(x, w) }")
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 40)).astype(np.float32)}
    wanted = open_session(model).run(feeds)["y"]
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "nowhere"), ("offset", "0"), ("length", str(weight.nbytes))):
        tensor.external_data.add(key=key, value=value)
    np.testing.assert_array_equal(open_session(model, weights={"w": weight}).run(feeds)["y"], wanted)
    with pytest.raises(RuntimeModelError):
        open_session(model)


def test_a_profile_tells_every_node_of_every_run(tmp_path):
    session = open_session(conv_bn_relu(), optimize="none", profile_prefix=tmp_path / "times")
    for _ in range(2):
        session.run({"x": np.zeros((1, 3, 8, 8), np.float32)})
    path = session.end_profile()
    assert path.parent == tmp_path
    kernels = [event for event in json.loads(path.read_text()) if event["name"].endswith("_kernel_time")]
    assert sorted(event["args"]["op_name"] for event in kernels) == sorted(
        2 * [node.op_type for node in conv_bn_relu().graph.node]
    )
