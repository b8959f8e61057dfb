"""Outputs of every type and shape, beside class scores: compared, or refused by name."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from backends.session import open_session
from tests import models
from zsq_compile import CompileConfig, UnsupportedModelError, compile_model

QUICK = CompileConfig(effort="fast", speed_trials=False)
BODY = "c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) d = Conv(r, v, e) g = GlobalAveragePool(d) scores = Flatten(g)"
WEIGHTS = (
    "float[8,3,3,3] w, float[8] b, float[5,8,1,1] v, float[5] e, float all = {255.0}, float[4] anchors = {1,2,3,4}"
)


def network(outputs: str, body: str = "") -> onnx.ModelProto:
    text = f"g (float[N,3,8,8] x) => (float[N,5] scores, {outputs}) <{WEIGHTS}> {{ {BODY} {body} }}"
    return models.parse(text)


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def test_outputs_of_every_kind_are_compared(tmp_path: Path) -> None:
    outputs = (
        "uint8[N,5,8,8] mask, int32[N,1,8,8] classes, float mean, float[5,N] turned, float[4] anchors, "
        "float[N,3,8,8] x, bool[N,5] large"
    )
    body = """
        s = Sigmoid(d) m = Mul(s, all) mask = Cast<to=2>(m) best = ArgMax<axis=1>(d) classes = Cast<to=6>(best)
        mean = ReduceMean<keepdims=0>(scores) turned = Transpose(scores) large = Greater(scores, mean)
    """
    model, source = network(outputs, body), tmp_path / "net.onnx"
    onnx.save(model, source)
    result = compile_model(source, config=QUICK, calibration={"x": pictures(20, 1)})
    validation = result.report.validation
    assert validation.failures == ()
    assert {one.name for one in validation.outputs} == {value.name for value in model.graph.output}
    assert all(one.rows is None for one in validation.outputs)
    x = pictures(8, 2)
    before, after = (open_session(one).run({"x": x}) for one in (model, result.path))
    for name, wanted in before.items():
        assert (after[name].shape, after[name].dtype) == (wanted.shape, wanted.dtype)
        assert (
            np.mean(np.abs(after[name].astype(np.float64) - wanted)) <= 0.1 * np.std(wanted.astype(np.float64)) + 0.05
        )
    np.testing.assert_array_equal(after["anchors"], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("output", "body"), [("seq(float[N,5])", "SequenceConstruct"), ("optional(float[N,5])", "Optional")]
)
def test_what_is_no_tensor_is_refused_by_name(tmp_path: Path, output: str, body: str) -> None:
    source = tmp_path / "net.onnx"
    onnx.save(network(f"{output} several", f"several = {body}(scores)"), source)
    with pytest.raises(UnsupportedModelError, match="'several'"):
        compile_model(source, config=QUICK)
