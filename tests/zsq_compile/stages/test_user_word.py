"""Compilations with layers that the user wants in float, and with a metric of the user's."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests import models
from zsq_compile.compiler import CompileResult, compile_model
from zsq_compile.config.compile import CompileConfig, QuantizationConfig
from zsq_compile.config.generators import PriorConfig
from zsq_compile.quantization.plan_file import read_plan, write_plan

QUICK = CompileConfig(generator=PriorConfig(), samples=16, effort="fast", speed_trials=False)


def compiled(folder: Path, config: CompileConfig, quantization: QuantizationConfig) -> CompileResult:
    onnx.save(models.branches(), folder / "net.onnx")
    return compile_model(folder / "net.onnx", folder / "out.onnx", replace(config, quantization=quantization))


def is_kept(path: Path) -> bool:
    """Whether the file holds the float weight of the network's middle layer as it was."""
    weight = next(one for one in models.branches().graph.initializer if one.name == "w2")
    held = [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer if one.data_type == 1]
    return any(np.array_equal(one, numpy_helper.to_array(weight)) for one in held)


@pytest.mark.parametrize(
    ("bits", "config"),
    [
        (4, replace(QUICK, target="ort_cpu_avx2")),
        (4, replace(QUICK, target="openvino")),
        (8, replace(QUICK, target="tensorrt")),
        (8, replace(QUICK, target="qnn_htp")),
        (4, replace(QUICK, effort="balanced", time_budget=20.0, target="ort_cpu_avx2")),
        (8, replace(QUICK, mixed=True, max_size="6k", samples=32, target="ort_cpu_avx2")),
    ],
    ids=["w4", "openvino", "tensorrt", "qnn", "learned", "mixed"],
)
def test_a_float_weight_is_in_the_file_as_it_was(tmp_path: Path, bits: int, config: CompileConfig) -> None:
    result = compiled(tmp_path, config, QuantizationConfig(bits=bits, exclude=("conv",), layer_bits={"gemm": 8}))
    assert is_kept(result.path)
    assert "conv" in result.plan.exclude and "conv" not in result.plan.weights
    assert {"left", "right", "gemm"} <= result.plan.weights.keys()
    assert any(one.where == "conv" and one.requested for one in result.report.refusals)
    assert result.report.validation.failures == ()


def test_a_saved_plan_makes_the_same_file(tmp_path: Path) -> None:
    chosen = QuantizationConfig(bits=4, exclude=("Concat",), layer_bits={"conv": "float", "left": 8})
    first = compiled(tmp_path, replace(QUICK, target="ort_cpu_avx2"), chosen)
    made = first.path.read_bytes()
    write_plan(tmp_path / "plan.json", first.plan)
    again = compile_model(
        tmp_path / "net.onnx",
        tmp_path / "again.onnx",
        replace(QUICK, target="ort_cpu_avx2", quantization=QuantizationConfig(bits=4)),
        given_plan=read_plan(tmp_path / "plan.json"),
    )
    assert again.path.read_bytes() == made
    assert again.plan == first.plan


def test_the_metric_is_asked_for_both_files_and_decides_widths(tmp_path: Path) -> None:
    script = tmp_path / "size.py"
    script.write_text("import os, sys; print('bytes', os.path.getsize(sys.argv[1]))")
    command = f"'{sys.executable}' '{script}' {{model}}"
    config = replace(QUICK, mixed=True, metric=command, min_agreement=0.55, samples=32, target="ort_cpu_avx2")
    result = compiled(tmp_path, config, QuantizationConfig())
    told = result.report.metric
    assert told is not None and result.report.mixed is not None
    assert told["float"] == (tmp_path / "net.onnx").stat().st_size
    assert told["quantized"] == result.path.stat().st_size == told["runs"][-1]["value"]
    assert told["kept"] == pytest.approx(min(told["quantized"] / told["float"], 1.0))
    assert len(told["runs"]) > len(result.report.mixed["trials"]) > 1  # placement asks once more
    assert result.gate_missed == (told["kept"] < 0.55)
