import pytest

from passes.normalize import unify_operators
from passes.normalize.infer_shapes import InferShapes
from passes.normalize.unify_operators import UnifyOperators
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude


def text(body, output="float[N,C,H,W] y", inputs="float[N,4,5,6] x"):
    constants = (
        "int64[2] hw = {2, 3}, int64[2] wh = {-1, -2}, int64[1] w = {3}, int64[3] chw = {1, 2, 3}, float one = {1.0}"
    )
    return f"g ({inputs}) => ({output}) <{constants}> {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "output", "after"),
    [
        ("y = ReduceMean(x, hw)", "float[N,4,1,1] y", ["GlobalAveragePool"]),
        ("y = ReduceMean<keepdims=1>(x, wh)", "float[N,4,1,1] y", ["GlobalAveragePool"]),
        ("y = ReduceMean<keepdims=0>(x, hw)", "float[N,4] y", ["GlobalAveragePool", "Flatten"]),
        ("a = ReduceMean<keepdims=0>(x, wh) y = Relu(a)", "float[N,4] y", ["GlobalAveragePool", "Flatten", "Relu"]),
        ("y = Sum(x, x)", "float[N,4,5,6] y", ["Add"]),
        ("a = Relu(x) b = Abs(x) y = Sum(x, a, b)", "float[N,4,5,6] y", ["Relu", "Abs", "Add", "Add"]),
        ("y = CastLike(x, one)", "float[N,4,5,6] y", ["Cast"]),
    ],
)
def test_one_form_for_one_meaning(body, output, after):
    given = text(body, output)
    model = models.graph(given)
    assert UnifyOperators()(model).modified
    assert models.operators(model) == after
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert models.largest_difference(models.parse(given), model) < TOLERANCE
    assert not UnifyOperators()(model).modified


@pytest.mark.parametrize(
    ("body", "output", "inputs"),
    [
        ("y = ReduceMean(x, w)", "float[N,4,5,1] y", "float[N,4,5,6] x"),
        ("y = ReduceMean(x, chw)", "float[N,1,1,1] y", "float[N,4,5,6] x"),
        ("y = ReduceMean(x)", "float[1,1,1,1] y", "float[N,4,5,6] x"),
        ("y = ReduceMean(x, hw)", "float[N,4,1,1,3] y", "float[N,4,5,6,3] x"),
        ("y = ReduceMax(x, hw)", "float[N,4,1,1] y", "float[N,4,5,6] x"),
    ],
)
def test_other_reductions_stay(body, output, inputs):
    model = models.graph(text(body, output, inputs))
    before = models.operators(model)
    assert not UnifyOperators()(model).modified
    assert models.operators(model) == before


def test_shapes_of_new_values_can_be_inferred():
    model = models.graph(text("a = ReduceMean<keepdims=0>(x, wh) y = Relu(a)", "float[N,4] y"))
    UnifyOperators()(model)
    InferShapes()(model)
    shapes = [[size for size in node.outputs[0].shape][1:] for node in model.graph]
    assert shapes == [[4, 1, 1], [4], [4]]


def test_the_comparison_sees_a_lost_addend(monkeypatch):
    def forgetful(graph, node):
        node.op_type = "Add"
        node.resize_inputs(2)
        return True

    monkeypatch.setattr(unify_operators, "_add", forgetful)
    given = text("a = Relu(x) b = Abs(x) y = Sum(x, a, b)", "float[N,4,5,6] y")
    model = models.graph(given)
    UnifyOperators()(model)
    assert models.largest_difference(models.parse(given), model) > 0.1
