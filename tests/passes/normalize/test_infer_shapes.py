from passes.normalize.infer_shapes import InferShapes
from tests import models


def shapes(model):
    return {
        value.name: [size if isinstance(size, int) else None for size in value.shape]
        for node in model.graph
        for value in node.outputs
        if value.shape is not None
    }


def test_every_value_gets_a_shape_and_a_type():
    model = models.graph(
        """g (float[N,3,8,8] x) => (float[N,5] y) <float[4,3,3,3] w, float[5,144] v>
        { c = Conv(x, w) f = Flatten(c) y = Gemm<transB=1>(f, v) }"""
    )
    assert InferShapes()(model).modified
    assert shapes(model) == {"c": [None, 4, 6, 6], "f": [None, 144], "y": [None, 5]}
    assert {value.dtype.name for node in model.graph for value in node.outputs} == {"FLOAT"}
    assert not InferShapes()(model).modified


def test_sizes_that_do_not_depend_on_the_batch_are_found_by_trying_two():
    # the rank of the reshaped value is known, its sizes only if the batch is a number
    model = models.graph(
        """g (float[N,4,6] x) => (float[A,B] y)
        <int64[1] zero = {0}, int64[1] rest = {-1}, int64 i = {0}, int64 i4 = {4}>
        { s = Shape(x) n = Gather(s, i) m = Mul(n, i4) u = Unsqueeze(m, zero) t = Concat<axis=0>(u, rest)
          y = Reshape(x, t) }"""
    )
    InferShapes()(model)
    assert shapes(model)["y"] == [None, 6]


def test_names_of_open_sizes_of_outputs_are_kept():
    model = models.graph("g (float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }")
    InferShapes()(model)
    assert str(model.graph.outputs[0].shape[0]) == "batch"


def test_weights_are_not_lost():
    model = models.graph("g (float[N,4] x) => (float[N,600] y) <float[4,600] w> { y = MatMul(x, w) }")
    InferShapes()(model)
    assert model.graph.initializers["w"].const_value.numpy().std() > 0.01


def test_group_normalization_makes_what_is_like_its_input():
    model = models.graph(
        """g (float[N,4,6,7] x) => (float[N,4,6,7] y) <float[4] scale, float[4] shift, float[4,4,3,3] w>
        { n = GroupNormalization<num_groups=2>(x, scale, shift) c = Conv<strides=[2,2]>(n, w) u = Shape(c)
          s = Relu(c) y = GroupNormalization<num_groups=2>(x, scale, shift) }"""
    )
    InferShapes()(model)
    assert shapes(model) == {
        "n": [None, 4, 6, 7],
        "y": [None, 4, 6, 7],
        "c": [None, 4, 2, 3],
        "u": [4],
        "s": [None, 4, 2, 3],
    }
    assert "GroupNormalization" in models.operators(model)
