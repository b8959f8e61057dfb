import numpy as np
import onnx_ir as ir
import pytest

from passes import constants
from passes.constants import constant_value
from passes.normalize.fold_constants import FoldConstants
from tests import models

CHAIN = """g (float[N,4] x) => (float[N,4] y) <int64[1] four = {4}, int64[1] zero = {0}>
    { a = ConstantOfShape<value = float[1] {3.0}>(four) b = Unsqueeze(a, zero) c = Mul(b, b) y = Add(x, c) }"""


def test_chains_become_initializers():
    model = models.graph(CHAIN)
    assert FoldConstants()(model).modified
    assert models.operators(model) == ["Add"]
    assert models.largest_difference(models.parse(CHAIN), model) == 0.0
    assert not FoldConstants()(model).modified


def test_the_comparison_sees_a_wrong_value(monkeypatch):
    right = constants._evaluate
    monkeypatch.setattr(constants, "_evaluate", lambda *given: [1.01 * array for array in right(*given)])
    model = models.graph(CHAIN)
    FoldConstants()(model)
    assert models.largest_difference(models.parse(CHAIN), model) > 1e-3


@pytest.mark.parametrize(
    "body",
    [
        "s = Shape(x) y = Expand(one, s)",  # depends on the input
        "y = RandomNormal<shape=[2,4]>()",  # not the same twice
        "y = Add(one, one)",  # a graph output must be made by a node
    ],
)
def test_what_is_not_constant_stays(body):
    model = models.graph(f"g (float[2,4] x) => (float[2,4] y) <float[2,4] one> {{ {body} }}")
    before = models.operators(model)
    assert not FoldConstants()(model).modified
    assert models.operators(model) == before


def test_constant_value_looks_through_nodes_without_changing_them():
    model = models.graph(CHAIN)
    values = {value.name: value for node in model.graph for value in node.outputs}
    np.testing.assert_array_equal(constant_value(values["c"]), np.full((1, 4), 9.0))
    assert constant_value(values["y"]) is None
    assert constant_value(model.graph.inputs[0]) is None
    assert constant_value(None) is None
    assert len(model.graph) == 4


def test_many_paths_to_the_input_are_walked_once():
    body = " ".join(f"v{step + 1} = Add(v{step}, v{step})" for step in range(60))
    model = models.graph(f"g (float[2] x) => (float[2] y) {{ v0 = Relu(x) {body} y = Relu(v60) }}")
    assert constant_value(model.graph.outputs[0]) is None


def test_a_node_with_an_absent_optional_input_folds():
    text = """g (float[4] x) => (float[4] y) <float[4] a, float high = {0.1}>
        { b = Clip(a, , high) y = Add(x, b) }"""
    model = models.graph(text)
    assert FoldConstants()(model).modified
    assert models.largest_difference(models.parse(text), model) == 0.0


def test_user_inputs_are_never_folded_away():
    model = ir.from_proto(models.residual())
    FoldConstants()(model)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert [value.name for value in model.graph.outputs] == ["logits"]


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ("s = Squeeze(index) y = Gather<axis=1>(x, s)", "float[M] y"),
        ("s = Reshape(index, none) u = Unsqueeze(s, axis) t = Concat<axis=0>(u, u) y = Tile(x, t)", "float[A,B] y"),
    ],
)
def test_scalars_stay_scalars(body, output):
    declared = "int64[1] index = {2}, int64[0] none, int64[1] axis = {0}"
    text = f"g (float[3,3] x) => ({output}) <{declared}> {{ {body} }}"
    model = models.graph(text)
    FoldConstants()(model)
    assert model.graph.initializers["s"].const_value.numpy().shape == ()
    assert models.largest_difference(models.parse(text), model) == 0.0
