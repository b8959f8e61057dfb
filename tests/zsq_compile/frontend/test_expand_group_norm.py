import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests import models
from zsq_compile.frontend.load import load_model

TOLERANCE = 1e-5  # of the output's magnitude


def network(opset: int, sizes: list[int | str]) -> onnx.ModelProto:
    """GroupNormalization of 3 groups of 2 channels each, between Relu and Neg; the checker refuses that of opset 18."""
    per = 3 if opset < 21 else 6
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.uniform(0.5, 1.5, per).astype(np.float32), name) for name in ("scale", "bias")
    ]
    normal = helper.make_node("GroupNormalization", ["r", "scale", "bias"], ["n"], "norm", num_groups=3, epsilon=0.01)
    nodes = [helper.make_node("Relu", ["x"], ["r"]), normal, helper.make_node("Neg", ["n"], ["y"])]
    faces = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes) for name in "xy"]
    graph = helper.make_graph(nodes, "g", faces[:1], faces[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize("opset", [18, 20, 21])
@pytest.mark.parametrize("sizes", [["N", 6, 5], ["N", 6, 4, 7], [2, 6, 2, 3, 4]])
def test_group_normalization_of_every_opset_is_loaded(opset, sizes, tmp_path):
    given = network(opset, sizes)
    onnx.save(given, tmp_path / "model.onnx")
    loaded = load_model(tmp_path / "model.onnx", verify=False)
    for model in (loaded.original, loaded.model):
        assert models.largest_difference(given, model) < TOLERANCE
    assert all(value.shape is not None for node in loaded.model.graph for value in node.outputs)
