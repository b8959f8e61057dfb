import pytest

from passes.normalize.infer_shapes import InferShapes
from passes.normalize.turn_left_weights import TurnLeftWeights
from tests import models

TOLERANCE = 1e-6  # of the output's magnitude


def text(body: str, inputs: str, output: str) -> str:
    return f"g ({inputs}) => ({output}) <float[6,4] w, float[1,6,4] w3, float[2,6,4] stack, float[4] row> {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "inputs", "output", "after"),
    [
        ("y = MatMul(w, x)", "float[N,4,5] x", "float[N,6,5] y", ["Conv"]),
        ("y = MatMul(w3, x)", "float[N,4,L] x", "float[N,6,L] y", ["Conv"]),
        ("a = MatMul(w, x) y = Relu(a)", "float[N,4,5] x", "float[N,6,5] y", ["Conv", "Relu"]),
        ("y = MatMul(w, x)", "float[4,N] x", "float[6,N] y", ["Unsqueeze", "Conv", "Squeeze"]),
        ("y = MatMul(w, x)", "float[N,3,4,5] x", "float[N,3,6,5] y", ["Transpose", "MatMul", "Transpose"]),
        ("a = MatMul(w3, x) y = Relu(a) z = Neg(a)", "float[N,2,3,4,5] x", "float[N,2,3,6,5] y, float[N,2,3,6,5] z",
         ["Transpose", "MatMul", "Transpose", "Relu", "Neg"]),
    ],
)  # fmt: skip
def test_weights_go_to_the_right(body, inputs, output, after):
    model = models.graph(text(body, inputs, output))
    InferShapes()(model)
    assert TurnLeftWeights()(model).modified
    assert models.operators(model) == after
    assert models.largest_difference(models.parse(text(body, inputs, output)), model) < TOLERANCE
    InferShapes()(model)
    assert all(value.shape is not None for node in model.graph for value in node.outputs)
    assert not TurnLeftWeights()(model).modified


@pytest.mark.parametrize(
    ("body", "inputs", "output"),
    [
        ("y = MatMul(x, w)", "float[N,6] x", "float[N,4] y"),
        ("y = MatMul(stack, x)", "float[2,4,5] x", "float[2,6,5] y"),
        ("y = MatMul(row, x)", "float[N,4,5] x", "float[N,5] y"),
        ("y = MatMul(w3, x)", "float[4,5] x", "float[1,6,5] y"),
        ("y = MatMul(x, z)", "float[N,3,4] x, float[N,4,3] z", "float[N,3,3] y"),
    ],
)
def test_other_products_stay(body, inputs, output):
    model = models.graph(text(body, inputs, output))
    assert not TurnLeftWeights()(model).modified


def test_a_shared_weight_serves_both_readers():
    body = "a = MatMul(w, x) b = MatMul(w, a) y = Add(a, b)"
    given = text(body, "float[N,4,5] x", "float[N,4,5] y").replace("float[6,4] w", "float[4,4] w")
    model = models.graph(given)
    assert TurnLeftWeights()(model).modified
    assert models.largest_difference(models.parse(given), model) < TOLERANCE
