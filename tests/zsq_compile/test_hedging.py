"""A compilation where two preprocessings are plausible: what it makes, says and refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.models import parse
from zsq_compile.compiler import CompileResult, compile_model
from zsq_compile.config.compile import CompileConfig
from zsq_compile.data.posterior import Posterior
from zsq_compile.data.preprocessing import usual_preprocessings
from zsq_compile.synthesis import generator

WAYS = {one.name: one for one in usual_preprocessings(3)}
NETWORK = """<ir_version: 9, opset_import: ["" : 17]>
net (float[N,3,16,16] x) => (float[N,10] y)
<float[8,3,3,3] w1, float[8] b1, float[16,8,3,3] w2, float[16] b2, float[16,10] w3, float[10] b3> {
  a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w1, b1)
  b = LeakyRelu<alpha = 0.1>(a)
  c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(b, w2, b2)
  d = Relu(c)
  e = GlobalAveragePool(d)
  f = Flatten(e)
  y = Gemm(f, w3, b3)
}"""

Compile = Callable[[Posterior], CompileResult]


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compile:
    onnx.save(parse(NETWORK), tmp_path / "net.onnx")

    def run(posterior: Posterior) -> CompileResult:
        monkeypatch.setattr(generator, "find_preprocessing", lambda *_, **__: {"x": posterior})
        config = CompileConfig(
            target="ort_cpu_avx2",
            effort="fast",
            samples=40,
            speed_trials=False,
            min_agreement=0.999,
            keep_quality="off",  # the input keeps a grid, however coarse it gets
        )
        return compile_model(tmp_path / "net.onnx", tmp_path / "net.w8a8.onnx", config)

    return run


def input_range(result: CompileResult) -> tuple[float, float]:
    """Lowest and highest number that the quantizer of the input represents."""
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(result.path).graph.initializer}
    node = next(
        one for one in onnx.load(result.path).graph.node if one.op_type == "QuantizeLinear" and one.input[0] == "x"
    )
    scale, zero = (float(constants[name]) for name in node.input[1:])
    low, high = (0.0, 255.0) if constants[node.input[2]].dtype == np.uint8 else (-128.0, 127.0)
    return (low - zero) * scale, (high - zero) * scale


def test_ranges_reach_both_and_doubt_is_told_and_kept_from_the_gate(compiled: Compile) -> None:
    both = compiled(Posterior.of([WAYS["unit"], WAYS["imagenet"]], [0.5, 0.5]))
    low, high = input_range(both)
    assert low < -1.5
    assert high > 2.0
    report = both.report
    assert [(one.kind, one.where) for one in report.alarms][:1] == [("input", "input 'x'")]
    assert report.agreement_estimate is not None
    assert [one.words for one in report.agreement_estimate.hypotheses] == ["unit", "imagenet"]
    assert not report.agreement_estimate.proven
    assert report.validation.worst_agreement is not None
    assert report.validation.agreement is not None
    assert report.validation.worst_agreement <= report.validation.agreement
    assert report.held_agreement is not None
    assert both.gate_missed == (report.held_agreement < 0.999)


def test_an_improbable_one_takes_no_range_from_the_other(compiled: Compile) -> None:
    low, high = input_range(compiled(Posterior.of([WAYS["unit"], WAYS["byte"]], [0.97, 0.03])))
    assert low == 0.0
    assert high < 1.2


def test_nothing_open_leaves_the_graph_as_it_is(compiled: Compile) -> None:
    """What one hypothesis makes is what the same one makes with others that are not plausible."""
    alone = onnx.load(compiled(Posterior.certain(WAYS["unit"])).path).graph.SerializeToString()
    result = compiled(Posterior.of([WAYS["unit"], WAYS["byte"]], [0.99, 0.01]))
    assert onnx.load(result.path).graph.SerializeToString() == alone
    assert result.synthetic is not None
    assert result.synthetic.hypotheses is None
    assert result.report.alarms == ()
