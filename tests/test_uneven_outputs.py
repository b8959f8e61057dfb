"""Networks with a NonMaxSuppression: what is in front of it is quantized, and what is behind it stays float."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from backends.session import open_session
from tests import models
from zsq_compile import CompileConfig, ConfigError, compile_model
from zsq_compile.metrics import sqnr_db

QUICK = CompileConfig(effort="fast", speed_trials=False)
BODY = """
    c0 = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0, b0) r0 = Relu(c0)
    c1 = Conv<pads=[1,1,1,1], strides=[2,2]>(r0, w1, b1) r1 = Relu(c1)
    cb = Conv(r1, wb, bb) rows_first = Reshape(cb, box_shape) boxes = Transpose<perm=[0,2,1]>(rows_first)
    cs = Conv(r1, ws, bs) raw = Reshape(cs, score_shape) scores = Sigmoid(raw)
    kept = NonMaxSuppression(boxes, scores, most, overlap, least)
"""
HEAD = """
    at = Gather<axis=1>(kept, box_column) features = Reshape(r1, feature_shape)
    positions = Transpose<perm=[0,2,1]>(features) found = Gather<axis=1>(positions, at) flat = Reshape(found, row_shape)
    hidden = Gemm(flat, wf, bf) active = Relu(hidden) classes = Gemm(active, wg, bg)
"""
WEIGHTS = (
    "float[8,3,3,3] w0, float[8] b0, float[16,8,3,3] w1, float[16] b1, float[4,16,1,1] wb, float[4] bb, "
    "float[2,16,1,1] ws, float[2] bs, int64[3] box_shape = {0, 4, -1}, int64[3] score_shape = {0, 2, -1}, "
    "int64[1] most = {6}, float[1] overlap = {0.5}, "
)
HEAD_WEIGHTS = (
    "int64[1] box_column = {2}, int64[3] feature_shape = {0, 16, -1}, int64[2] row_shape = {-1, 16}, "
    "float[16,32] wf, float[32] bf, float[32,5] wg, float[5] bg, "
)


def detector(outputs: str, body: str, weights: str, least: float) -> onnx.ModelProto:
    """Boxes that are far enough from each other for some to survive."""
    text = f"g (float[1,3,16,16] x) => ({outputs}) <{weights} float[1] least = {{{least}}}> {{ {body} }}"
    return models.parse(text, weights={"bb": np.array([0.2, 0.2, 0.8, 0.8])})


def compiled(folder: Path, model: onnx.ModelProto) -> tuple[Path, Any]:
    source = folder / "net.onnx"
    onnx.save(model, source)
    result = compile_model(source, folder / "q.onnx", QUICK, calibration={"x": pictures(20, seed=1)})
    return result.path, result.report.validation


def pictures(count: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 3, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    return (coarse + 0.3 * rng.standard_normal((count, 3, 16, 16))).astype(np.float32)


def test_boxes_and_scores_in_front_of_it_are_quantized_and_compared(tmp_path: Path) -> None:
    outputs = "float[1,16,4] boxes, float[1,2,16] scores, int64[n,3] kept"
    model = detector(outputs, BODY, WEIGHTS, 0.5)
    path, validation = compiled(tmp_path, model)
    qualities = {one.name: one for one in validation.outputs}
    assert [name for name, one in qualities.items() if one.rows is not None] == ["kept"]
    assert validation.failures == ()
    assert validation.decision_output != "kept"
    before, after = open_session(model), open_session(path)
    runs = [(before.run({"x": row[None]}), after.run({"x": row[None]})) for row in pictures(12, seed=0)]
    for name in ("boxes", "scores"):
        wanted, got = (np.stack([run[side][name] for run in runs]) for side in (0, 1))
        assert sqnr_db(wanted, got) > 30.0


@pytest.mark.parametrize("least", [0.5, 0.999])
def test_layers_behind_it_are_stored_in_integers_and_run_in_float(tmp_path: Path, least: float) -> None:
    model = detector("float[n,5] classes, int64[n,3] kept", BODY + HEAD, WEIGHTS + HEAD_WEIGHTS, least)
    path, validation = compiled(tmp_path, model)
    assert validation.sqnr_db is None
    assert all(one.rows is not None for one in validation.outputs)
    assert {one.rows.got > 0 for one in validation.outputs if one.rows} == {least < 0.9}
    found = onnx.load(path).graph
    sizes = {tensor.name: tensor for tensor in found.initializer}
    assert not any(
        tensor.data_type == onnx.TensorProto.FLOAT and list(tensor.dims) in ([16, 32], [32, 16])
        for tensor in sizes.values()
    )
    floats = [onnx.numpy_helper.to_array(tensor) for tensor in sizes.values()]
    assert all(np.isfinite(array).all() for array in floats if array.dtype == np.float32)
    quantized = {node.input[0] for node in found.node if node.op_type == "QuantizeLinear"}
    assert not quantized & {"at", "found", "flat", "hidden", "active", "classes"}
    assert validation.fusion.fused == 2
    assert set(validation.fusion.unfused) == {"Conv_4", "Conv_7"}, "what they make is turned into boxes"


def test_a_gate_on_decisions_is_refused_where_there_are_none(tmp_path: Path) -> None:
    source = tmp_path / "net.onnx"
    onnx.save(detector("float[n,5] classes, int64[n,3] kept", BODY + HEAD, WEIGHTS + HEAD_WEIGHTS, 0.5), source)
    with pytest.raises(ConfigError, match="min_agreement"):
        compile_model(source, config=replace(QUICK, min_agreement=0.5))
    assert list(tmp_path.iterdir()) == [source]
