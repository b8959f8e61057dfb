import pytest

from passes.normalize import unify_operators
from passes.normalize.unify_operators import UnifyOperators
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude


def text(body, output="float[N,C,H,W] y", inputs="float[N,4,5,6] x"):
    return f"g ({inputs}) => ({output}) <float one = {{1.0}}> {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "output", "after"),
    [
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
