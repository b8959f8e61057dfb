"""compile_model for targets whose runtime need not be there: the file is made, proved on the processor, and said so."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from backends.machine import detect_target
from passes.emit.check_target import target_violations
from passes.quantize.override_widths import Widths
from tests import models
from zsq_compile.compiler import CompileResult, compile_model
from zsq_compile.config.compile import CompileConfig, QuantizationConfig
from zsq_compile.config.generators import PriorConfig
from zsq_compile.errors import ConfigError
from zsq_compile.quantization.plan_file import PlanFile


def compiled(folder: Path, target: str, *, bits: int = 8, plan: PlanFile | None = None) -> CompileResult:
    onnx.save(models.residual(), folder / "net.onnx")
    config = CompileConfig(
        generator=PriorConfig(),
        samples=16,
        effort="fast",
        speed_trials=False,
        target=target,
        quantization=QuantizationConfig(bits=bits),
    )
    return compile_model(folder / "net.onnx", config=config, given_plan=plan)


@pytest.mark.parametrize("target", ["tensorrt", "qnn_htp", "coreml"])
def test_a_target_that_is_not_here_is_compiled_for_and_said_not_to_be_here(tmp_path: Path, target: str) -> None:
    result = compiled(tmp_path, target, bits=4)
    assert target_violations(ir.load(result.path), load_target(target)) == ()
    assert any(f"held to the rules of {target}" in note for note in result.report.notes)
    validation = result.report.validation
    assert not validation.failures
    assert validation.sqnr_db is not None and validation.sqnr_db > 15.0
    assert not any("did not fuse" in warning for warning in validation.warnings)


def test_auto_says_what_it_took_and_why(tmp_path: Path) -> None:
    result = compiled(tmp_path, "auto")
    found = detect_target()
    assert f"target: {found.name}, because {found.reason}" in result.report.notes
    metadata = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
    assert metadata["zsq_compile.target"] == found.name


def test_a_plan_of_eight_bits_has_eight_where_int8_would_saturate(tmp_path: Path) -> None:
    plan = PlanFile(weights={"conv1": 8, "conv2": 4}, activations={})
    result = compiled(tmp_path, "ort_cpu_avx2", plan=plan)
    assert Widths(weights=result.plan.weights).weights == {"conv0": 8, "conv1": 8, "conv2": 4, "gemm": 8}


def test_narrow_values_are_refused_before_the_work(tmp_path: Path) -> None:
    onnx.save(models.residual(), tmp_path / "net.onnx")
    config = CompileConfig(target="coreml", quantization=QuantizationConfig(act_bits=4))
    with pytest.raises(ConfigError, match="at least 8 on coreml"):
        compile_model(tmp_path / "net.onnx", config=config)


def test_mixed_widths_are_those_of_the_target(tmp_path: Path) -> None:
    onnx.save(models.residual(), tmp_path / "net.onnx")
    config = CompileConfig(
        generator=PriorConfig(),
        samples=32,
        effort="fast",
        speed_trials=False,
        target="ort_cpu_avx2",
        mixed=True,
        max_size="4200",
    )
    result = compile_model(tmp_path / "net.onnx", config=config)
    assert set(result.plan.weights.values()) <= {8, 4, 3, 2}
    assert len(set(result.plan.weights.values())) > 1
    assert result.path.stat().st_size <= 4200
