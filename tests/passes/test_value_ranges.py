import math

import pytest

from passes.value_ranges import bounds, clip_limits, never_negative
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


INFINITE = math.inf


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Identity(x)", (-INFINITE, INFINITE)),
        ("a = Tanh(x) y = Relu(a)", (0.0, 1.0)),
        ("a = Sigmoid(x) b = Tanh(x) y = Concat<axis=1>(a, b)", (-1.0, 1.0)),
        ("a = Sigmoid(x) b = Tanh(x) y = Add(a, b)", (-1.0, 2.0)),
        ("a = Clip(x, below, three) b = Tanh(x) y = Mul(a, b)", (-3.0, 3.0)),
        ("a = Relu(x) b = Clip(x, zero, zero) y = Mul(a, b)", (0.0, 0.0)),
        ("a = Sigmoid(x) b = Clip(x, below, three) y = Max(a, b)", (0.0, 3.0)),
        ("a = Sigmoid(x) b = Clip(x, below, three) y = Min(a, b)", (-1.0, 1.0)),
        ("a = Sigmoid(x) b = Clip(a, three, three) y = Neg(b)", (-INFINITE, INFINITE)),
        ("a = Clip(x, three, three) y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)", (0.0, 3.0)),
        ("a = Sigmoid(x) y = Clip(a, below, zero)", (0.0, 0.0)),
    ],
)
def test_both_ends_follow_from_the_operators(body, expected):
    model = models.graph(
        f"g (float[N,1,4,4] x) => (float[N,C,H,W] y) <float zero = {{0.0}}, float below = {{-1.0}}, "
        f"float three = {{3.0}}> {{ {body} }}"
    )
    assert bounds(model.graph.outputs[0]) == expected


def test_a_deep_network_has_an_end():
    body = "v0 = Relu(x) " + " ".join(f"v{i + 1} = Add(v{i}, v{i})" for i in range(3000))
    model = models.graph(f"g (float[N] x) => (float[N] v3000) {{ {body} }}")
    assert bounds(model.graph.outputs[0]) == (-INFINITE, INFINITE)


def test_limits_that_are_computed_are_none():
    model = models.graph("g (float[N] x, float a) => (float[N] y) { y = Clip(x, a) }")
    assert clip_limits(model.graph[0]) is None
    assert clip_limits(models.graph("g (float[N] x) => (float[N] y) { y = Neg(x) }").graph[0]) is None
