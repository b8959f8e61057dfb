import numpy as np

from passes.normalize.own_weights import OwnWeights
from tests import models

SHARED = """g (float[N,4,6,6] x) => (float[N,4,6,6] y, float[4] b)
    <float[4,4,1,1] w, float[4] a, float[4] b0, float[4] scale, float[4] variance>
    { [first] c = Conv(x, w, a) [second] d = Conv(c, w, a) n = BatchNormalization(d, scale, a, a, variance)
      [third] y = Conv(n, w, b0) b = Relu(b0) }"""


def test_every_layer_gets_weights_of_its_own():
    model = models.graph(SHARED)
    assert OwnWeights()(model).modified
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    for node in convolutions:
        for value in node.inputs[1:]:
            assert len(value.uses()) == 1
    weights = [node.inputs[1] for node in convolutions]
    assert len({value.name for value in weights}) == 3 and weights[2].name == "w"
    for value in weights:
        np.testing.assert_array_equal(value.const_value.numpy(), weights[0].const_value.numpy())
    assert models.largest_difference(models.parse(SHARED), model) == 0.0
    assert not OwnWeights()(model).modified


def test_readers_that_are_no_layers_keep_the_initializer():
    model = models.graph(SHARED)
    OwnWeights()(model)
    normalization = next(node for node in model.graph if node.op_type == "BatchNormalization")
    assert [value.name for value in normalization.inputs[2:4]] == ["a", "a"]


def test_weights_that_nobody_shares_are_left_alone():
    model = models.graph("g (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] b> { y = Gemm(x, w, b) }")
    assert not OwnWeights()(model).modified
    assert list(model.graph.initializers) == ["w", "b"]


def test_products_of_two_activations_have_no_weight():
    model = models.graph("g (float[4,4] x) => (float[4,4] y) { a = Relu(x) y = MatMul(a, a) }")
    assert not OwnWeights()(model).modified
