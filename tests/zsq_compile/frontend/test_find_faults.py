"""Broken files are refused as such, by loading and by inspect; a mistake of ours on a good file is not blamed on it."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests import models
from zsq_compile.errors import LoadError, ZsqError
from zsq_compile.frontend import load
from zsq_compile.frontend.load import load_model
from zsq_compile.inspection.inspect import inspect_model


def cut_weight(model: onnx.ModelProto) -> None:
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def missing_weight(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0]


def dangling_input(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[0] = "nowhere"


def unknown_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nowhere"


def no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def value_made_twice(model: onnx.ModelProto) -> None:
    model.graph.node[3].output[0] = model.graph.node[0].output[0]


def invented_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Convolve"


def wrong_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("kernel_shape", "three"))


def missing_node(model: onnx.ModelProto) -> None:
    del model.graph.node[1]


def out_of_order(model: onnx.ModelProto) -> None:
    first = onnx.NodeProto()
    first.CopyFrom(model.graph.node[0])
    del model.graph.node[0]
    model.graph.node.append(first)


BROKEN = [
    cut_weight,
    unknown_type,
    missing_weight,
    dangling_input,
    unknown_output,
    no_outputs,
    value_made_twice,
    invented_operator,
    wrong_attribute,
    missing_node,
    out_of_order,
]


def save(folder: Path, spoil: Callable[[onnx.ModelProto], None] = lambda _: None) -> Path:
    model, path = models.residual(), folder / "net.onnx"
    spoil(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("spoil", BROKEN)
@pytest.mark.parametrize("run", [load_model, inspect_model])
def test_broken_files_are_refused(run, spoil, tmp_path: Path) -> None:
    with pytest.raises(ZsqError) as error:
        run(save(tmp_path, spoil))
    assert error.value.exit_code == 3 and "net.onnx" in str(error.value)


@pytest.mark.parametrize("run", [load_model, inspect_model])
def test_cut_weights_are_named(run, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"is damaged: the tensor '\w+' holds \d+ bytes instead of"):
        run(save(tmp_path, cut_weight))


def test_a_mistake_of_ours_is_not_blamed_on_a_good_file(tmp_path: Path, monkeypatch) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(load, "normalize", stumble)
    with pytest.raises(KeyError, match="ours"):
        load_model(save(tmp_path))
