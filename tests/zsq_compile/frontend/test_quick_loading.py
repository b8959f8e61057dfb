from pathlib import Path

import numpy as np
import onnx
import pytest

from passes.checks import Door, violations
from tests import models
from zsq_compile.errors import LoadError, UnsupportedModelError
from zsq_compile.frontend.load import load_model
from zsq_compile.frontend.quick_loading import load_quickly


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "model", [models.residual(), models.branches(), models.padded()], ids=lambda one: one.graph.name
)
def test_it_computes_what_the_file_computes(model: onnx.ModelProto, tmp_path: Path) -> None:
    quick = load_quickly(saved(model, tmp_path))
    assert models.largest_difference(model, quick.model) <= 1e-5
    assert violations(quick.model, Door.NORMALIZED) == ()
    assert [spec.name for spec in quick.inputs] == ["x"]


def test_large_weights_survive_the_raising_of_the_opset(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 11]>
    net (float[N,16,6,6] x) => (float[N,64,6,6] y) <float[64,16,3,3] w, float[64] b, float low = {0.0}>
    { c = Conv<pads=[1,1,1,1]>(x, w, b) y = Clip(c, low) }
    """
    model = models.parse(text)
    path = saved(model, tmp_path)
    quick, whole = load_quickly(path), load_model(path)
    assert models.largest_difference(whole.original, quick.model) == 0.0
    weight = quick.model.graph.initializers["w"].const_value
    assert weight is not None
    given = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    np.testing.assert_array_equal(weight.numpy(), onnx.numpy_helper.to_array(given))
    assert quick.opset == 11
    assert quick.notes == ("opset 11 is raised to 21, which the quantized file needs",)
    assert quick.operators == (("Clip", 1), ("Conv", 1))


def test_sizes_that_are_open_are_assumed_and_told(tmp_path: Path) -> None:
    model = models.parse(
        "net (float[N,3,H,W] x, float[N,T] s) => (float[N,3,H,W] y, float[N,T] z) { y = Relu(x) z = Relu(s) }"
    )
    quick = load_quickly(saved(model, tmp_path))
    assert quick.assumed == {"x": "?x3x224x224", "s": "?x128"}
    assert [spec.shape for spec in quick.inputs] == [(None, 3, 224, 224), (None, 128)]
    given = load_quickly(saved(model, tmp_path), input_shapes={"x": (1, 3, 8, 8), "s": (1, 5)})
    assert given.assumed == {}
    assert [spec.shape for spec in given.inputs] == [(1, 3, 8, 8), (1, 5)]


def test_training_mode_is_switched_off(tmp_path: Path) -> None:
    model = models.conv_bn_relu()
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("training_mode", 1))
    model.graph.node[1].output.extend(["m", "v"])
    quick = load_quickly(saved(model, tmp_path))
    assert any("training mode" in note for note in quick.notes)
    model.graph.output.append(onnx.helper.make_tensor_value_info("m", onnx.TensorProto.FLOAT, [8]))
    with pytest.raises(UnsupportedModelError, match=r"Call model.eval\(\) before the export"):
        load_quickly(saved(model, tmp_path))


def test_branches_that_data_decide_are_refused_as_by_compiling(tmp_path: Path) -> None:
    text = """
    net (float[1] x, bool go) => (float[1] y)
    { y = If (go) <then_branch = one () => (float[1] a) { a = Relu(x) },
                   else_branch = two () => (float[1] b) { b = Tanh(x) }> }
    """
    path = saved(models.parse(text), tmp_path)
    with pytest.raises(UnsupportedModelError) as ours:
        load_quickly(path)
    with pytest.raises(UnsupportedModelError) as theirs:
        load_model(path)
    assert str(ours.value) == str(theirs.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"not a model at all")
    with pytest.raises(LoadError, match="is no ONNX model"):
        load_quickly(tmp_path / "a.onnx")
