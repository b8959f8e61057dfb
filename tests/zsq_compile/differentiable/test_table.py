"""The operator table: which versions it lists, and what it refuses."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper

from tests.zsq_compile.differentiable.single_node import build, image
from zsq_compile.differentiable import table
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.differentiable.table import OPERATORS
from zsq_compile.errors import UnsupportedModelError
from zsq_compile.frontend.executable import EXECUTABLE, NEWEST_VERSION


def test_every_schema_version_from_the_oldest_supported_on_is_listed() -> None:
    schemas: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= NEWEST_VERSION:
            schemas.setdefault(schema.name, []).append(schema.since_version)
    newest_known = min(NEWEST_VERSION, onnx.defs.onnx_opset_version())
    for name in {op_type for _, op_type, _ in OPERATORS}:
        ours = {since for _, op_type, since in OPERATORS if op_type == name and since <= newest_known}
        assert ours == {since for since in schemas[name] if since >= min(ours)}, name


BATCH_NORM = {"scale": image(3), "shift": image(3), "mean": image(3), "variance": np.abs(image(3))}


def test_lookup_takes_the_newest_version_not_above_the_opset() -> None:
    node = ir.node("Softmax", [ir.val("x")], name="n")
    assert table.find_operator(node, 12) is OPERATORS["", "Softmax", 11]
    assert table.find_operator(node, 13) is OPERATORS["", "Softmax", 13]
    assert table.find_operator(node, NEWEST_VERSION) is OPERATORS["", "Softmax", 13]


def test_standard_domain_may_be_spelt_out() -> None:
    model = build("Relu", 14, {"x": image(2)}, {})
    model.graph.node[0].domain = "ai.onnx"
    model.opset_import[0].domain = "ai.onnx"
    got = TorchGraph(ir.from_proto(model)).run({"x": torch.tensor([-1.0, 2.0])})["y0"]
    assert got.tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (build("StringNormalizer", 13, {"x": image(3)}, {}), ["the_node", "StringNormalizer", "opset 13"]),
        (build("Gelu", 19, {"x": image(3)}, {}), ["the_node", "Gelu", "opset 19", "from opset 20"]),
        (build("Cast", 19, {"x": image(3)}, {}, to=TensorProto.FLOAT8E4M3FN), ["the_node", "FLOAT8E4M3FN"]),
        (
            build("BatchNormalization", 14, {"x": image(2, 3)}, BATCH_NORM, training_mode=1),
            ["the_node", "training mode"],
        ),
        (build("LSTM", 14, {"x": image(5, 2, 3)}, {"w": image(1, 16, 3), "r": image(1, 16, 4)}, clip=1.0), ["clip"]),
        (build("Resize", 13, {"x": image(1, 1, 2, 2)}, {}, mode="magic"), ["the_node", "magic"]),
    ],
)
def test_refusal_names_node_operator_and_opset(model: onnx.ModelProto, words: list[str]) -> None:
    with pytest.raises(UnsupportedModelError) as error:
        TorchGraph(ir.from_proto(model))
    for word in words:
        assert word in str(error.value)


def test_an_operator_is_refused_where_its_version_is_newer_than_the_table_and_others_are_not(monkeypatch) -> None:
    monkeypatch.setattr(table, "NEWEST_VERSION", 21)
    with pytest.raises(UnsupportedModelError, match=r"the_node.*HardSwish.*as of opset 21"):
        TorchGraph(ir.from_proto(build("HardSwish", 22, {"x": image(3)}, {})))
    assert TorchGraph(ir.from_proto(build("Relu", 22, {"x": image(3)}, {}))).output_names == ("y0",)


def test_the_list_that_needs_no_torch_names_what_has_all_versions_from_opset_21_on() -> None:
    versions: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= NEWEST_VERSION:
            versions.setdefault(schema.name, []).append(schema.since_version)
    for name in EXECUTABLE:
        first = max((since for since in versions.get(name, ()) if since <= 21), default=0)
        wanted = [since for since in versions.get(name, ()) if since >= first]
        assert all(("", name, since) in OPERATORS for since in wanted), name
    assert {name for _, name, _ in OPERATORS} == EXECUTABLE


def test_other_domain_is_refused_by_name() -> None:
    model = build("Relu", 14, {"x": image(2)}, {})
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedModelError, match=r"com\.example\.Relu"):
        TorchGraph(ir.from_proto(model))


def test_string_constant_is_refused_by_name() -> None:
    model = build("Identity", 14, {}, {"words": np.array(["a"])})
    with pytest.raises(UnsupportedModelError, match=r"'words' has element type STRING"):
        TorchGraph(ir.from_proto(model))
