"""Recurrent layers and tables through a whole compilation: smaller files, the same arithmetic, told in the report."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from backends.session import open_session
from tests.quantizing import sqnr
from tests.storing import lookup, recurrent
from zsq_compile import CompileConfig, QuantizationConfig, compile_model
from zsq_compile.quantization.plan_file import PlanFile


def compiled(
    proto: onnx.ModelProto, folder: Path, feeds: dict[str, NDArray[Any]], bits: int, plan: PlanFile | None = None
) -> Any:
    path = folder / "net.onnx"
    onnx.save(proto, path)
    quantization = QuantizationConfig(bits=bits)
    config = CompileConfig(samples=16, effort="fast", speed_trials=False, quantization=quantization)
    return compile_model(path, folder / "q.onnx", config, calibration=feeds, given_plan=plan)


def sequences(count: int, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((count, 1, 7, 24)).astype(np.float32)}


def batch_first(kind: str, opset: int, directions: int = 1) -> onnx.ModelProto:
    """The network of ``recurrent``, fed (N, 1, 7, 24) as exporters write a map between a convolution and a layer."""
    proto = recurrent(kind, directions=directions, opset=opset)
    cell = next(node for node in proto.graph.node if node.name == "cell")
    cell.input[0] = "t"
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["flat"], "flatten", axis=2),
        onnx.helper.make_node("Reshape", ["flat", "sizes"], ["rows"], "rows"),
        onnx.helper.make_node("Transpose", ["rows"], ["t"], "time", perm=[1, 0, 2]),
    ]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 7, 24], np.int64), "sizes"))
    for place, node in enumerate(nodes):
        proto.graph.node.insert(place, node)
    del proto.graph.input[:]
    proto.graph.input.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, 7, 24]))
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.mark.parametrize(
    ("kind", "opset", "bits", "least"),
    [("LSTM", 14, 8, 35.0), ("GRU", 22, 8, 35.0), ("LSTM", 21, 4, 15.0), ("GRU", 7, 4, 12.0)],
)
def test_a_recurrent_network_gets_smaller_and_stays_near(
    kind: str, opset: int, bits: int, least: float, tmp_path: Path
) -> None:
    proto = batch_first(kind, opset, directions=2)
    result = compiled(proto, tmp_path, sequences(32, 0), bits)
    assert result.report.validation.failures == ()
    feeds = sequences(16, 1)
    wanted, got = (open_session(path).run(feeds)["y"] for path in (tmp_path / "net.onnx", result.path))
    assert sqnr(wanted, got) > least
    types = {tensor.data_type for tensor in onnx.load(result.path).graph.initializer if np.prod(tensor.dims) >= 500}
    assert types == {onnx.TensorProto.INT8 if bits == 8 else onnx.TensorProto.INT4}
    assert any("stored in integers" in refusal.reason for refusal in result.report.refusals)
    assert result.plan.weights["cell"] == bits
    contents = result.report.contents
    assert contents["quantized"].weights["cell"] == contents["float"].weights["cell"] * bits // 32


def test_a_network_of_tables_and_recurrent_layers_alone_can_be_compiled(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = {"ids": rng.integers(0, 60, (32, 5))}
    result = compiled(lookup(), tmp_path, ids, 8)
    assert result.report.validation.failures == ()
    assert result.path.stat().st_size < 0.5 * (tmp_path / "net.onnx").stat().st_size
    wanted, got = (open_session(path).run(ids)["y"] for path in (tmp_path / "net.onnx", result.path))
    assert sqnr(wanted, got) > 35.0


def test_a_plan_file_gives_a_recurrent_layer_other_bits(tmp_path: Path) -> None:
    proto = batch_first("LSTM", 21)
    wide = compiled(proto, tmp_path, sequences(32, 0), 8)
    size = wide.path.stat().st_size
    narrow = compiled(proto, tmp_path, sequences(32, 0), 8, PlanFile(weights={"cell": 4}, activations={}))
    assert narrow.path.stat().st_size < size - 1000
    again = compiled(proto, tmp_path, sequences(32, 0), 8, narrow.plan)
    assert again.path.stat().st_size == narrow.path.stat().st_size
