import numpy as np
import onnx
import pytest

from backends.session import RuntimeModelError
from tests.models import HEADER, residual
from tests.zsq_compile.verification.quantized import float_and_quantized, samples
from zsq_compile.verification.latency import measure_latency
from zsq_compile.verification.profile import profile_model


def test_every_node_that_runs_has_a_time_a_name_and_its_values(tmp_path):
    _, emitted = float_and_quantized(tmp_path)
    nodes = profile_model(onnx.load(emitted), {"x": samples(1)}, threads=1, seconds=0.01)
    operators = [node.op_type for node in nodes]
    assert operators.count("QLinearConv") == 3
    assert (operators.count("QuantizeLinear"), operators.count("DequantizeLinear")) == (1, 1)
    assert {node.name for node in nodes if node.op_type in ("QLinearConv", "QGemm")} == {
        "conv0",
        "conv1",
        "conv2",
        "gemm",
    }
    assert all(node.outputs for node in nodes)
    made = {value for node in nodes for value in node.outputs}
    assert "logits" in made


def test_float_layers_keep_the_names_that_the_model_gave_them():
    nodes = profile_model(residual(), {"x": samples(1)}, threads=1, seconds=0.01)
    assert {"conv0", "conv1", "conv2", "gemm"} <= {node.name for node in nodes}


def test_nodes_without_a_name_are_called_after_what_they_make():
    model = onnx.parser.parse_model(
        HEADER + "g (float[N,4] x) => (float[N,4] y) { a = Abs(x)\n b = Exp(a)\n y = Neg(b) }"
    )
    model.graph.node[1].name = "Abs"
    model.graph.node[2].name = "Abs"  # two nodes of one name
    before = model.SerializeToString()
    nodes = profile_model(model, {"x": np.ones((2, 4), np.float32)}, threads=1, seconds=0.01)
    assert {node.name: node.op_type for node in nodes} == {"a": "Abs", "Abs": "Exp", "y": "Neg"}
    assert nodes[1].inputs == nodes[0].outputs
    assert model.SerializeToString() == before


def test_times_are_milliseconds_and_the_large_product_takes_most():
    model = onnx.parser.parse_model(
        HEADER + "g (float[256,512] x) => (float[256,512] y) { a = MatMul(x, w)\n y = Neg(a) }"
    )
    weight = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    feeds = {"x": np.ones((256, 512), np.float32)}
    times = {node.op_type: node.ms for node in profile_model(model, feeds, threads=1)}
    (whole,) = measure_latency({"a": model}, feeds, threads=1, seconds=0.1).values()
    assert times["MatMul"] > times["Neg"]
    assert 0.1 < sum(times.values()) / whole.median_ms < 10.0


def test_inputs_that_do_not_fit_are_an_error():
    with pytest.raises(RuntimeModelError, match="no input 'z'"):
        profile_model(residual(), {"z": samples(1)})
