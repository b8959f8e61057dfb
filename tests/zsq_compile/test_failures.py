"""What leaves the public functions: always an error in words, with the innermost cause."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from backends.session import RuntimeModelError
from passes.graph_pass import GraphPass, run_passes
from passes.normalize.fold_constants import FoldConstants
from passes.quantize.add_missing_bias import AddMissingBias
from tests import models
from zsq_compile.compiler import compile_model
from zsq_compile.errors import ConfigError, QuantizationError, UnsupportedModelError, ZsqError
from zsq_compile.failures import told_in_words
from zsq_compile.inspection.inspect import inspect_model


def save(folder: Path) -> Path:
    path = folder / "net.onnx"
    onnx.save(models.conv_bn_relu(), path)
    return path


class Breaking(GraphPass):
    """Leaves a node without a name that is read."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        next(iter(model.graph)).outputs[0].name = None
        return ir.passes.PassResult(model, True)


def test_the_runner_of_passes_tells_what_the_pass_said() -> None:
    nested = ir.passes.Sequential(ir.passes.PassManager([ir.passes.Sequential(Breaking())], steps=2))
    with pytest.raises(ir.passes.PostconditionError, match=r"Breaking broke the graph.*has no name"):
        run_passes(nested, ir.from_proto(models.conv_bn_relu()))


def fail_in_a_pass() -> None:
    ir.passes.Sequential(ir.passes.PassManager([Breaking()]))(ir.from_proto(models.conv_bn_relu()))


def fail_in_the_runtime() -> None:
    raise RuntimeModelError("ONNX Runtime cannot load it")


def fail_for_a_reason_of_ours() -> None:
    try:
        raise ConfigError("wanted this")
    except ConfigError as error:
        raise ir.passes.PassError("an error occurred") from error


@pytest.mark.parametrize(
    ("fail", "kind", "words"),
    [
        (fail_in_a_pass, QuantizationError, "Breaking broke the graph"),
        (fail_in_the_runtime, QuantizationError, "ONNX Runtime cannot load it"),
        (fail_for_a_reason_of_ours, ConfigError, "wanted this"),
    ],
)
def test_errors_come_out_in_words(fail, kind: type[ZsqError], words: str) -> None:
    with pytest.raises(kind, match=words), told_in_words():
        fail()


def test_a_bug_keeps_its_type() -> None:
    with pytest.raises(KeyError), told_in_words():
        {}["x"]


@pytest.mark.parametrize("run", [compile_model, inspect_model])
def test_a_pass_that_fails_while_loading_is_a_refusal(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(FoldConstants, "call", Breaking.call)
    with pytest.raises(UnsupportedModelError, match="normal form: FoldConstants broke the graph"):
        run(save(tmp_path))


@pytest.mark.parametrize("run", [compile_model, inspect_model])
def test_a_pass_that_fails_later_is_told(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(AddMissingBias, "call", Breaking.call)
    with pytest.raises(QuantizationError, match="AddMissingBias broke the graph"):
        run(save(tmp_path))
