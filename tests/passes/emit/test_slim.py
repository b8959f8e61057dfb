from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from backends.catalog import load_target
from passes.emit.slim import Slim
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, prepare, random_feeds, with_scales

TARGET = load_target("ort_cpu")


def quantized() -> ir.Model:
    model = prepare(models.residual())
    plan = with_scales(place_quantizers(model, TARGET), model, random_feeds(model))
    return inserted(model, plan)


def test_a_slim_model_computes_the_same_and_is_smaller() -> None:
    model = quantized()
    feeds, before = random_feeds(model), ir.to_proto(model)
    assert Slim()(model).modified
    after = ir.to_proto(model)
    for name, wanted in execute(before, feeds).items():
        assert np.array_equal(execute(after, feeds)[name], wanted)
    assert after.ByteSize() < before.ByteSize()
    assert not after.graph.value_info


def test_names_of_the_users_nodes_and_values_stay() -> None:
    model = quantized()
    Slim()(model)
    names = {node.name for node in model.graph}
    assert {"conv0", "relu0", "add", "gemm"} <= names
    assert {"n1", "a", "logits"} <= {value.name for node in model.graph for value in node.outputs}
    assert all(not node.name for node in model.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear"))


def test_a_second_run_changes_nothing() -> None:
    model = quantized()
    Slim()(model)
    assert not Slim()(model).modified


def test_a_value_that_is_called_like_the_short_names_is_left_alone(tmp_path: Path) -> None:
    model = quantized()
    next(value for node in model.graph for value in node.outputs if value.name == "n1").name = "q0"
    feeds = random_feeds(model)
    wanted = execute(model, feeds)["logits"]
    Slim()(model)
    onnx.save(ir.to_proto(model), tmp_path / "slim.onnx")
    assert np.array_equal(execute(ir.to_proto(model), feeds)["logits"], wanted)


def test_the_simplifiers_log_goes_and_the_users_metadata_stays() -> None:
    model = quantized()
    model.metadata_props.update({"onnxsim.removed_nodes": "many", "author": "somebody"})
    Slim()(model)
    assert dict(model.metadata_props) == {"author": "somebody"}
