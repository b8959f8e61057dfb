"""The whole line on small networks: a float file in, a quantized file out, and the runtime as the judge."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from backends.session import open_session
from tests import models
from zsq_compile import (
    CompileConfig,
    DistillConfig,
    PixelsConfig,
    QuantizationConfig,
    UnsupportedModelError,
    compile_model,
)
from zsq_compile.quantization.layer_metrics.layer_quality import worst_layers

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
QUICK = CompileConfig(generator=PixelsConfig(iterations=10), samples=32, effort="fast", speed_trials=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Three convolutions with batch normalisation, a residual addition and a classifier."""
    path = tmp_path / "net.onnx"
    onnx.save(models.residual(), path)
    return path


def logits(path: Path, samples: NDArray[Any]) -> NDArray[Any]:
    return open_session(path).run({"x": samples})["logits"]


def noise_ratio(wanted: NDArray[Any], got: NDArray[Any]) -> float:
    """Power of the error over the power of the signal."""
    return float(np.sum((got - wanted) ** 2) / np.sum(wanted**2))


def initializer_types(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer}


def test_all_stages_at_eight_bits(model: Path) -> None:
    result = compile_model(model, config=QUICK)
    assert result.path == model.with_name("net.w8a8.onnx")
    assert not result.gate_missed
    assert result.synthetic is not None
    assert result.synthetic.algorithm == "pixels"
    onnx.checker.check_model(onnx.load(result.path), full_check=True)
    samples = np.asarray(result.synthetic.inputs["x"])
    # Measured here, not taken from the report: 8 bits leave less than 1 % of noise power (20 dB).
    assert noise_ratio(logits(model, samples), logits(result.path, samples)) < 0.01
    validation = result.report.validation
    assert validation.failures == ()
    assert (validation.fusion.fused, validation.fusion.unfused) == (4, ())
    assert result.report.coverage == "BN found behind 3 of 3 convolutions"


def test_agreement_on_real_data_is_estimated(model: Path) -> None:
    first, again = (compile_model(model, config=QUICK).report for _ in range(2))
    told = first.agreement_estimate
    assert told is not None
    assert told == again.agreement_estimate  # same seed, same figures
    assert told.estimate is not None
    assert told.low is not None
    assert told.high is not None
    assert 0.5 < told.low < told.estimate < told.high <= 1.0
    assert told.calibration_source == "from BN nodes"
    assert [family.name for family in told.families] == ["prior", "high contrast", "low contrast", "joined halves"]
    plain = json.loads(json.dumps(first.to_json(), allow_nan=False))["agreement_estimate"]
    assert (plain["estimate"], plain["low"], plain["high"]) == (told.estimate, told.low, told.high)
    assert plain["families"][0]["samples"] == 256
    assert f"estimated agreement on real data: {told.describe()}, from BN nodes" in first.summary()


def test_without_classes_the_estimate_counts_what_the_task_keeps(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(models.conv_bn_relu(), path)
    report = compile_model(path, config=QUICK).report
    told = report.agreement_estimate
    assert told is not None
    assert told.measure == "intersection over union"
    assert told.low is not None and told.estimate is not None and told.high is not None
    assert 0.0 < told.low <= told.estimate <= told.high < 1.0
    assert f"{told.describe()}, from BN nodes" in report.summary()


def test_distillation_is_the_last_step_and_the_report_tells_of_it(model: Path) -> None:
    config = replace(
        QUICK, quantization=QuantizationConfig(bits=3, edge_bits=3), distill=DistillConfig(steps=4, learning_rate=0.02)
    )
    result = compile_model(model, config=config)
    assert list(result.report.stages)[-5:] == ["distill", "measure", "write", "validate", "collect report data"]
    assert result.report.validation.failures == ()
    told = json.loads(json.dumps(result.report.to_json(), allow_nan=False))
    assert told["distillation"]["steps"] == 4
    assert [point["step"] for point in told["distillation"]["curve"]] == [0, 1, 2, 3, 4]
    assert f"distilled: {told['distillation']['summary']}" in result.report.summary()
    assert list(told["layers"][0]["sqnr_db"]) == ["calibrate", "round", "correct biases", "distill"]
    assert told["settings"]["distill"]["steps"] == 4
    # the file is what was judged best, or what was there before
    kept, before = told["distillation"]["divergence_after"], told["distillation"]["divergence_before"]
    assert kept <= before


def test_every_layer_is_measured_after_every_step(model: Path) -> None:
    config = replace(QUICK, quantization=QuantizationConfig(bits=2, act_bits=8))
    report = compile_model(model, config=config).report
    layers = {layer.node: layer for layer in report.layers}
    assert list(layers) == ["conv0", "conv1", "conv2", "add", "pool", "gemm"]
    for layer in layers.values():
        assert list(layer.sqnr_db) == ["calibrate", "round", "correct biases"]
        assert all(math.isfinite(ratio) for ratio in (*layer.sqnr_db.values(), layer.own_sqnr_db))
    # the first and the last layer keep 8 bits
    assert {layer.node for layer in worst_layers(report.layers, 2)} == {"conv1", "conv2"}
    for name in ("conv1", "conv2"):
        assert str(layers[name].reason).startswith("few bits: 2-bit weights")
    assert "measure" in report.stages
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert told["worst_layers"][0]["node"] in ("conv1", "conv2")


def test_a_fixed_batch_is_measured_too(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    network = models.residual()
    for value in (*network.graph.input, *network.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(network, path)
    report = compile_model(path, config=QUICK).report
    assert len(report.layers) == 6
    assert all(layer.own_sqnr_db > 20.0 for layer in report.layers)


def test_channels_can_be_evened_out_first_and_high_biases_absorbed(tmp_path: Path) -> None:
    """One pair of layers with channels of very different ranges, and one channel that is always far above 0."""
    proto = models.parse(
        """
        agraph (float[N,2,6,6] x) => (float[N,3,6,6] y)
        <float[4,2,1,1] w0, float[4] gamma, float[4] beta, float[4] mean, float[4] variance, float[3,4,1,1] w1>
        {
            [first] c = Conv(x, w0)
            [norm] n = BatchNormalization(c, gamma, beta, mean, variance)
            r = Relu(n)
            [second] y = Conv(r, w1)
        }
        """
    )
    values = {
        "w0": np.linspace(-1, 1, 8).reshape(4, 2, 1, 1) * np.array([10, 1, 0.1, 1]).reshape(4, 1, 1, 1),
        "gamma": [1, 0.5, 1, 0.1],
        "beta": [0, 0.2, 0.1, 5],
        "mean": np.zeros(4),
        "variance": [30, 0.5, 0.01, 1],
        "w1": np.linspace(1, -1, 12).reshape(3, 4, 1, 1),
    }
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values[tensor.name], np.float32), tensor.name))
    path = tmp_path / "uneven.onnx"
    onnx.save(proto, path)
    config = replace(QUICK, quantization=QuantizationConfig(equalize=True))
    result = compile_model(path, config=config)
    samples = np.random.default_rng(0).normal(size=(64, 2, 6, 6)).astype(np.float32)
    wanted, got = (open_session(file).run({"x": samples})["y"] for file in (path, result.path))
    assert noise_ratio(wanted, got) < 0.01
    codes = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(result.path).graph.initializer}
    # the second layer had no bias: a correction of its rounding is far below what the first one's mean of 5 brings
    assert np.abs(codes["second_bias_quantized"]).max() > 1000


def test_four_bits_are_stored_in_half_the_bytes(model: Path) -> None:
    eight, four = (
        compile_model(
            model,
            config=CompileConfig(
                generator=QUICK.generator,
                samples=16,
                speed_trials=False,
                quantization=QuantizationConfig(bits=bits, edge_bits=bits),
            ),
        )
        for bits in (8, 4)
    )
    assert onnx.TensorProto.INT4 in initializer_types(four.path)
    assert onnx.TensorProto.INT4 not in initializer_types(eight.path)
    assert four.report.validation.fusion.unfused == ()
    assert four.synthetic is not None
    samples = np.asarray(four.synthetic.inputs["x"])
    wanted = logits(model, samples)
    # Sixteen levels cost more than 256 do, and still leave the signal well above the noise (5 % is 13 dB).
    assert noise_ratio(wanted, logits(eight.path, samples)) < noise_ratio(wanted, logits(four.path, samples)) < 0.05


def test_the_same_seed_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    first, second = (compile_model(model, tmp_path / name, QUICK).path.read_bytes() for name in ("a.onnx", "b.onnx"))
    assert first == second


def test_the_input_file_is_left_as_it_was_and_nothing_else_is(model: Path) -> None:
    before = model.read_bytes()
    compile_model(model, config=QUICK)
    assert model.read_bytes() == before
    assert sorted(path.name for path in model.parent.iterdir()) == ["net.onnx", "net.w8a8.onnx"]


def test_a_gate_that_cannot_be_met_is_missed_with_the_file_written(model: Path) -> None:
    config = CompileConfig(
        generator=QUICK.generator,
        samples=64,
        speed_trials=False,
        min_agreement=1.0,
        quantization=QuantizationConfig(bits=2, act_bits=2, edge_bits=2),
    )
    result = compile_model(model, config=config)
    assert result.gate_missed
    assert result.path.is_file()


def test_the_gate_is_held_against_the_estimate_for_real_data(model: Path) -> None:
    config = replace(QUICK, quantization=QuantizationConfig(bits=4, act_bits=4, edge_bits=4))
    report = compile_model(model, config=config).report
    estimate, counted = report.expected_agreement, report.validation.agreement
    assert report.agreement_estimate is not None and report.agreement_estimate.estimate == estimate
    assert estimate is not None and counted is not None and counted != estimate < 1.0
    # on either side of the estimate, one of them between it and the share that was counted
    reach = min(abs(counted - estimate), 1.0 - estimate) / 2
    missed = [
        compile_model(model, config=replace(config, min_agreement=gate)).gate_missed
        for gate in (estimate - reach, estimate + reach)
    ]
    assert missed == [False, True]


def test_a_model_with_nothing_to_quantize_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "relu.onnx"
    onnx.save(models.parse("relu (float[N,3,8,8] x) => (float[N,3,8,8] y) { [r] y = Relu(x) }"), path)
    with pytest.raises(UnsupportedModelError, match="nothing in this model can be quantized"):
        compile_model(path, config=CompileConfig(samples=4))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.long
def test_the_readme_s_command_on_the_example(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zsq_compile", str(EXAMPLES / "digits.onnx"), "--bits", "4", "--effort", "fast"]
    command += ["--data", str(EXAMPLES / "digits_test.npz"), "-o", str(tmp_path / "digits.onnx"), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    real = told["validation"]["labelled"]
    assert real["samples"] == 360
    assert real["top1_float"] > 0.99
    assert real["top1_quantized"] >= real["top1_float"] - 0.02
    assert told["contract"]["name"] == "unit"
    assert told["validation"]["quantized_bytes"] < 0.5 * told["validation"]["float_bytes"]
