"""A perceptron with one large 4-bit layer, from its float file to a package: the runtime reads that layer in blocks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from backends.session import open_session
from tests import models
from tests.quantizing import sqnr
from zsq_compile import CompileConfig, QuantizationConfig, compile_model
from zsq_compile.compiler import CompileResult
from zsq_compile.packaging.build import build_package
from zsq_compile.packaging.verify import main
from zsq_compile.reporting.facts import comparison_rows
from zsq_compile.verification.fusion import inspect_fusion

CONFIG = CompileConfig(
    samples=32,
    effort="fast",
    speed_trials=False,
    keep_quality="off",  # what 8 bits of a value cost random weights is of no interest here
    quantization=QuantizationConfig(bits=4),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("perceptron")
    perceptron = models.parse(
        """
        perceptron (float[N,3,8,8] x) => (float[N,10] y)
        <float[768,192] w0, float[768] b0, float[768,768] w1, float[768] b1, float[10,768] w2, float[10] b2>
        {
            [flat] f = Flatten(x)
            [fc0] g0 = Gemm<transB=1>(f, w0, b0)
            [relu0] r0 = Relu(g0)
            [fc1] g1 = Gemm<transB=1>(r0, w1, b1)
            [relu1] r1 = Relu(g1)
            [fc2] y = Gemm<transB=1>(r1, w2, b2)
        }
        """
    )
    onnx.save(perceptron, path / "net.onnx")
    return path


@pytest.fixture(scope="module")
def result(folder: Path) -> CompileResult:
    return compile_model(folder / "net.onnx", config=CONFIG)


def test_the_runtime_reads_the_large_layer_in_blocks_and_the_others_in_integers(result: CompileResult) -> None:
    validation = result.report.validation
    fusion = validation.fusion
    assert (fusion.fused, fusion.blockwise, fusion.unfused, fusion.left_float) == (2, ("fc1",), (), ())
    assert fusion.layers == 3
    assert validation.failures == ()
    assert validation.simulation is not None and validation.simulation.close
    assert ("on 4-bit weights in blocks", "-", "1 of 3") in comparison_rows(validation)


def test_the_same_seed_gives_the_same_bytes_and_other_forms_the_same_quality(
    folder: Path, result: CompileResult, tmp_path: Path
) -> None:
    again = compile_model(folder / "net.onnx", tmp_path / "again.onnx", CONFIG)
    assert again.path.read_bytes() == result.path.read_bytes()
    target = tmp_path / "integers.toml"
    target.write_text('based_on = "ort_cpu"\n[blockwise]\nblock_size = 0\n', encoding="utf-8")
    integers = compile_model(folder / "net.onnx", tmp_path / "integers.onnx", replace(CONFIG, target=str(target)))
    assert inspect_fusion(integers.path).fused == 3
    # the scales that blocks repeat are not stored for each
    assert result.path.stat().st_size <= integers.path.stat().st_size + 200
    samples = np.random.default_rng(0).random((64, 3, 8, 8), np.float32)
    wanted, ours, theirs = (
        open_session(path).run({"x": samples})["y"] for path in (folder / "net.onnx", result.path, integers.path)
    )
    assert sqnr(wanted, ours) > sqnr(wanted, theirs) - 0.5


def test_a_package_of_it_is_verified_with_its_ort_form(result: CompileResult, tmp_path: Path) -> None:
    package = build_package(result.path, tmp_path / "net.zsq", count=2, ort=True)
    assert main([str(package.path)]) == 0
    ours, theirs = (package.path / name for name in ("model.onnx", "model.ort"))
    samples = {"x": np.random.default_rng(0).random((4, 3, 8, 8), np.float32)}
    np.testing.assert_array_equal(*(open_session(path, threads=1).run(samples)["y"] for path in (ours, theirs)))
    listed = "".join(path.read_text(encoding="utf-8") for path in package.path.rglob("*.config"))
    assert "MatMulNBits" in listed
