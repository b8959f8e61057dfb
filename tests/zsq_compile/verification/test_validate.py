import dataclasses
import functools
import sys

import numpy as np
import onnx
import pytest

from backends.session import open_session
from tests.models import HEADER
from tests.zsq_compile.verification.quantized import float_and_quantized, samples
from zsq_compile.data.dataset import Dataset
from zsq_compile.errors import ConfigError, ValidationError
from zsq_compile.files import file_bytes
from zsq_compile.metrics import agreement, sqnr_db
from zsq_compile.verification.latency import Latency
from zsq_compile.verification.running import run_batched
from zsq_compile.verification.speed import SpeedAudit
from zsq_compile.verification.validate import validate

TIMES = {"float": 2.0, "quantized": 3.0}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return float_and_quantized(tmp_path_factory.mktemp("pair"))


def outputs(model, x):
    return open_session(model, threads=1).run({"x": x})


def parsed(text):
    return onnx.parser.parse_model(HEADER + text)


def saved(folder, text):
    path = folder / "emitted.onnx"
    onnx.save(parsed(text), path)
    return path


def test_figures_equal_those_computed_by_hand(pair):
    model, emitted = pair
    x = samples(50, 3)
    wanted, got = outputs(model, x)["logits"], outputs(emitted, x)["logits"]
    result = validate(model, emitted, {"x": x}, lambda _: {"logits": got}, threads=1, latency_seconds=0.01)
    assert result.samples == 50
    assert [output.name for output in result.outputs] == ["logits"]
    assert result.sqnr_db == pytest.approx(sqnr_db(wanted, got), abs=0.01)
    assert result.agreement == pytest.approx(agreement(wanted, got))
    assert result.fusion.fused == 4
    assert result.quantized_bytes == emitted.stat().st_size
    assert result.float_bytes == model.ByteSize()
    assert set(result.latency) == {"float", "quantized"}
    assert result.speedup is not None
    assert result.speed is not None
    assert result.latency == result.speed.latency
    assert result.warnings == ((result.speed.describe(),) if result.speed.verdict == "slower" else ())
    assert (result.failures, result.labelled) == ((), None)
    assert result.simulation is not None
    assert (result.simulation.share_beyond_step, result.simulation.agreement) == (0.0, 1.0)
    assert result.simulation.close


@pytest.mark.parametrize("stand_in", [False, True])
def test_a_file_that_is_slower_is_warned_of_unless_a_stand_in_was_timed(pair, monkeypatch, stand_in):
    slow = SpeedAudit(
        verdict="slower",
        latency={name: Latency(median_ms=ms, p10_ms=ms, p90_ms=ms, runs=5) for name, ms in TIMES.items()},
        rounds=5,
        slower_rounds=1.0,
        costs=None,
    )
    monkeypatch.setattr(sys.modules[validate.__module__], "audit_speed", lambda *_, **__: slow)
    result = validate(*pair, {"x": samples(2)}, threads=1, stand_in=stand_in)
    warnings = (
        ()
        if stand_in
        else (
            "the quantized file is not faster here: 3 ms against 2 ms, 1.50 times as long (longer in 100% of 5 rounds)",
        )
    )
    assert (result.speed, result.warnings) == (slow, warnings)


def test_a_simulation_that_differs_is_a_failure(pair):
    model, emitted = pair
    x = samples(20, 3)
    simulated = outputs(emitted, x)["logits"].copy()
    simulated[:4] += 1.0
    result = validate(model, emitted, {"x": x}, lambda _: {"logits": simulated}, threads=1, latency_seconds=0)
    assert result.latency == {}
    assert result.speedup is None
    assert result.simulation is not None
    assert result.simulation.share_beyond_step == pytest.approx(0.2)
    assert result.simulation.largest == pytest.approx(1.0, rel=1e-5)
    assert len(result.failures) == 1
    assert "20.0% of the elements of 'logits' differ" in result.failures[0]


def test_labelled_data_give_top1(pair):
    model, emitted = pair
    x = samples(70, 5)
    wanted, got = (np.argmax(outputs(source, x)["logits"], axis=1) for source in (model, emitted))
    labels = wanted.copy()
    labels[:7] = (labels[:7] + 1) % 5
    data = Dataset(samples={"x": x}, labels=labels.astype(np.int64), preparation=None)
    result = validate(model, emitted, {"x": x[:4]}, labelled=data, threads=1, latency_seconds=0)
    assert result.simulation is None
    assert result.labelled is not None
    assert result.labelled.samples == 70
    assert result.labelled.top1_float == pytest.approx(0.9)
    assert result.labelled.top1_quantized == pytest.approx(np.mean(got == labels))
    assert result.labelled.agreement == pytest.approx(np.mean(got == wanted))
    unlabelled = dataclasses.replace(data, labels=None)
    quality = validate(model, emitted, {"x": x[:4]}, labelled=unlabelled, threads=1, latency_seconds=0).labelled
    assert quality is not None
    assert (quality.top1_float, quality.top1_quantized) == (None, None)
    assert quality.agreement == result.labelled.agreement
    wrong = dataclasses.replace(data, labels=labels + 100)
    with pytest.raises(ConfigError, match="'logits': labels run from"):
        validate(model, emitted, {"x": x[:4]}, labelled=wrong, threads=1, latency_seconds=0)


def test_a_file_that_is_no_valid_onnx_is_refused(tmp_path, pair):
    path = tmp_path / "emitted.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ValidationError, match="is not valid ONNX"):
        validate(pair[0], path, {"x": samples(2)}, latency_seconds=0)


def test_a_file_that_the_runtime_refuses_is_refused(tmp_path):
    text = "g (float[N,2] x) => (float[N,2] y) { y = com.unknown.Thing(x) }"
    header = '<ir_version: 10, opset_import: ["" : 21, "com.unknown" : 1]>\n'
    path = tmp_path / "emitted.onnx"
    onnx.save(onnx.parser.parse_model(header + text), path)
    original = parsed("g (float[N,2] x) => (float[N,2] y) { y = Abs(x) }")
    with pytest.raises(ValidationError, match="failed in the runtime"):
        validate(original, path, {"x": np.zeros((2, 2), np.float32)}, latency_seconds=0)


@pytest.mark.parametrize(
    ("emitted", "words"),
    [
        ("g (float[N,2] x) => (float[N,2] z) { z = Abs(x) }", "has lost the output 'y'; it has z"),
        ("g (float[N,2] x) => (float[2,M] y) { y = Transpose(x) }", r"'y' must be \(3, 2\), got \(2, 3\)"),
    ],
)
def test_other_outputs_are_refused(tmp_path, emitted, words):
    original = parsed("g (float[N,2] x) => (float[N,2] y) { y = Abs(x) }")
    with pytest.raises(ValidationError, match=words):
        validate(original, saved(tmp_path, emitted), {"x": np.ones((3, 2), np.float32)}, latency_seconds=0)


def test_an_output_that_is_no_longer_finite_is_a_failure(tmp_path):
    original = parsed("g (float[N,2] x) => (float[N,2] y) { y = Abs(x) }")
    path = saved(tmp_path, "g (float[N,2] x) => (float[N,2] y) { y = Log(x) }")
    result = validate(original, path, {"x": np.zeros((3, 2), np.float32)}, latency_seconds=0)
    assert result.failures == ("output 'y' is not finite where the float model's is",)


def test_integer_outputs_are_compared_as_decisions(tmp_path):
    text = "g (float[N,3] x) => (int64[N] y) { y = ArgMax<axis=1, keepdims=0>(x) }"
    x = np.eye(3, dtype=np.float32)
    path = saved(tmp_path, text)
    data = Dataset(samples={"x": x}, labels=np.int64([0, 1, 1]), preparation=None)
    result = validate(
        parsed(text), path, {"x": x}, lambda _: {"y": np.int64([0, 1, 0])}, labelled=data, latency_seconds=0
    )
    assert (result.agreement, result.sqnr_db) == (1.0, None)
    assert result.labelled is not None
    assert result.labelled.top1_quantized == pytest.approx(2 / 3)
    assert result.simulation is not None
    assert result.simulation.share_beyond_step == pytest.approx(1 / 3)
    assert result.failures


@pytest.mark.parametrize(("batch", "count", "rows"), [("N", 70, 70), ("1", 3, 3), ("2", 5, 4)])
def test_run_batched_takes_the_models_batch(batch, count, rows):
    session = open_session(parsed(f"g (float[{batch},2] x) => (float[{batch},2] y) {{ y = Neg(x) }}"), threads=1)
    x = np.random.default_rng(0).standard_normal((count, 2))
    np.testing.assert_array_equal(run_batched(session, {"x": x})["y"], -x[:rows].astype(np.float32))


def test_run_batched_refuses_what_does_not_fit():
    session = open_session(parsed("g (float[4,2] x) => (float[4,2] y) { y = Neg(x) }"), threads=1)
    with pytest.raises(ConfigError, match="takes 4 samples at a time"):
        run_batched(session, {"x": np.zeros((3, 2))})
    with pytest.raises(ConfigError, match="needs the input 'x'; the data hold z"):
        run_batched(session, {"z": np.zeros((4, 2))})


def test_file_bytes_counts_external_data(tmp_path):
    model = parsed("g (float[N,2] x) => (float[N,500] y) { y = MatMul(x, w) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((2, 500), np.float32), "w"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert file_bytes(path) == path.stat().st_size + 4000


@pytest.mark.parametrize("shift", [0.0, 1e-3])
def test_an_output_of_zeros_has_no_ratio_and_is_told(tmp_path, shift):
    original = parsed("g (float[N,2] x) => (float[N,2] y, float[N,2] z) { n = Neg(x) y = Relu(n) z = Abs(x) }")
    text = f"<float s = {{{shift}}}> {{ n = Neg(x) r = Relu(n) y = Add(r, s) z = Abs(x) }}"
    path = saved(tmp_path, f"g (float[N,2] x) => (float[N,2] y, float[N,2] z) {text}")
    result = validate(original, path, {"x": np.ones((3, 2), np.float32)}, latency_seconds=0)
    assert [(one.silent, one.sqnr_db) for one in result.outputs] == [(True, None), (False, np.inf)]
    assert any("'y'" in text for text in result.warnings)


def test_the_worst_population_is_told_where_there_are_several(pair):
    model, emitted = pair
    x = samples(400, 3) * 0.05  # near the borders between classes, so that decisions change
    wanted, got = outputs(model, x)["logits"], outputs(emitted, x)["logits"]
    run = functools.partial(validate, model, emitted, {"x": x}, threads=1, latency_seconds=0.0)
    parts = [agreement(wanted[part::2], got[part::2]) for part in range(2)]
    assert run(populations=np.arange(400) % 2).worst_agreement == pytest.approx(min(parts))
    assert run().worst_agreement is None
