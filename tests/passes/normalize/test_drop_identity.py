import pytest

from passes.normalize.drop_identity import DropIdentity
from tests import models


def text(body, output="float[N,4] y", weights="float ratio = {0.5}, bool off = {0}, bool on = {1}, float[4] w"):
    return f"g (float[N,4] x) => ({output}) <{weights}> {{ {body} }}"


@pytest.mark.parametrize(
    "body",
    [
        "a = Identity(x) b = Identity(a) y = Relu(b)",
        "a = Relu(x) y = Identity(a)",
        "a = Relu(x) y = Dropout(a)",
        "a = Dropout(x, ratio, off) y = Relu(a)",
        "a, mask = Dropout(x, ratio) y = Relu(a)",
        "a = Sum(x) b = Concat<axis=1>(a) y = Relu(b)",
    ],
)
def test_what_does_nothing_goes(body):
    model = models.graph(text(body))
    assert DropIdentity()(model).modified
    assert models.operators(model) == ["Relu"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert models.largest_difference(models.parse(text(body)), model) == 0.0
    assert not DropIdentity()(model).modified


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ("y = Identity(x)", "float[N,4] y"),
        ("y = Identity(w)", "float[4] y"),
        ("y = Relu(x) z = Identity(y)", "float[N,4] y, float[N,4] z"),
        ("a, y = Dropout(x)", "bool[N,4] y"),
        ("y = Dropout(x, ratio, on)", "float[N,4] y"),
        ("y = Sum(x, x)", "float[N,4] y"),
    ],
)
def test_names_of_the_user_and_nodes_that_work_stay(body, output):
    model = models.graph(text(body, output))
    before = models.operators(model)
    assert not DropIdentity()(model).modified
    assert models.operators(model) == before
