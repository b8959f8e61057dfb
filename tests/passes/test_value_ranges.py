import pytest

from passes.value_ranges import never_negative
from tests import models


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Relu(x)", True),
        ("y = Clip(x, zero)", True),
        ("y = Clip(x, below)", False),
        ("y = Clip(x, , zero)", False),
        ("a = Sigmoid(x) y = MaxPool<kernel_shape=[2,2]>(a)", True),
        ("a = Relu(x) b = Exp(x) y = Add(a, b)", True),
        ("a = Relu(x) y = Add(a, x)", False),
        ("a = Relu(x) y = Sub(a, a)", False),
        ("y = Identity(x)", False),
    ],
)
def test_the_sign_follows_from_the_operators(body, expected):
    model = models.graph(
        f"g (float[N,1,4,4] x) => (float[N,C,H,W] y) <float zero = {{0.0}}, float below = {{-1.0}}> {{ {body} }}"
    )
    assert never_negative(model.graph.outputs[0]) is expected


def test_nothing_is_known_of_inputs():
    model = models.graph("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    assert not never_negative(model.graph.inputs[0])
    assert not never_negative(None)
