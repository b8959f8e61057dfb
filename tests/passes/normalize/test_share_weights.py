import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from passes.normalize.normalize import normalize
from passes.normalize.share_weights import ShareWeights
from passes.quantize.prepare_float import prepare_float
from tests import models
from tests.sharing import siamese, unrolled


def inputs(model: ir.Model, position: int, *names: str) -> list[str]:
    nodes = {node.name: node for node in model.graph}
    return [nodes[name].inputs[position].name for name in names]


def test_layers_that_read_a_weight_alike_share_it_but_not_the_small_bias_of_a_large_weight():
    before = siamese()
    model = ir.from_proto(before)
    assert ShareWeights()(model).modified
    assert inputs(model, 1, "first_p", "first_q", "second_p", "second_q") == ["w", "w", "v", "v"]
    assert inputs(model, 2, "first_p", "first_q", "second_p", "second_q") == ["b", "b", "second_p.bias", "a"]
    assert models.largest_difference(before, model) == 0.0
    assert not ShareWeights()(model).modified


def test_a_bias_that_copies_would_make_large_is_shared_with_the_weight():
    before = unrolled()
    model = ir.from_proto(before)
    assert not ShareWeights()(model).modified
    assert inputs(model, 2, "step1", "step8") == ["c", "c"]
    fewer = ir.from_proto(unrolled(steps=2))
    weight = np.zeros((24, 24 * 9), np.float32)  # 2 biases of 96 bytes are less than an eighth of it
    fewer.graph.initializers["u"].const_value = ir.tensor(weight)
    ShareWeights()(fewer)
    assert inputs(fewer, 2, "step1", "step2") == ["step1.bias", "c"]


def test_equal_weights_become_one_and_others_do_not():
    text = """g (float[N,16] x) => (float[N,16] y) <float[16,16] w, float[16,16] v, float[16,16] u, float[16] b>
        { [one] a = Gemm(x, w, b) [two] c = Gemm(a, v, b) [three] d = Gemm(c, u, b) y = Tanh(d) }"""
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32) / 4
    other = weight.copy()
    other[3, 5] = -0.0
    weight[3, 5] = 0.0
    before = models.parse(text, weights={"w": weight, "v": weight, "u": other})
    model = ir.from_proto(before)
    assert ShareWeights()(model).modified
    assert inputs(model, 1, "one", "two", "three") == ["w", "w", "u"]  # 0 and -0 are not the same bits
    assert "v" not in model.graph.initializers
    assert models.largest_difference(before, model) == 0.0


@pytest.mark.parametrize(
    "layers",
    [
        "a = Gemm(x, w) y = Gemm<transB=1>(a, w)",
        "a = Gemm(x, w) y = Add(a, w)",
        "a = MatMul(x, w) s = Softmax(w) y = MatMul(a, s)",
    ],
)
def test_a_weight_is_copied_where_one_grid_cannot_suit_all_readers(layers: str):
    before = models.parse(f"g (float[4,4] x) => (float[4,4] y) <float[4,4] w> {{ {layers} }}")
    model = ir.from_proto(before)
    assert ShareWeights()(model).modified
    first = next(iter(model.graph))
    assert first.inputs[1].name != "w" and len(first.inputs[1].uses()) == 1
    assert "w" in model.graph.initializers
    assert models.largest_difference(before, model) == 0.0


def test_grouped_convolutions_do_not_share_with_others():
    text = """g (float[N,4,6,6] x) => (float[N,4,6,6] y) <float[4,2,1,1] w>
        { [grouped] a = Conv<group=2>(x, w) [half] s, t = Split<axis=1, num_outputs=2>(a) [dense] y = Conv(s, w) }"""
    model = models.graph(text)
    assert ShareWeights()(model).modified
    assert len(set(inputs(model, 1, "grouped", "dense"))) == 2
    assert models.largest_difference(models.parse(text), model) == 0.0


def test_a_graph_output_keeps_its_initializer():
    text = "g (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] b> { [one] a = Gemm(x, w, b) y = Gemm(a, w, b) }"
    model = models.graph(text)
    model.graph.outputs.append(model.graph.initializers["w"])
    assert ShareWeights()(model).modified
    (weight,) = set(inputs(model, 1, *(node.name for node in model.graph)))
    assert weight != "w"


def test_what_nobody_shares_is_left_alone():
    model = models.graph("g (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4] b> { y = Gemm(x, w, b) }")
    assert not ShareWeights()(model).modified
    assert list(model.graph.initializers) == ["w", "b"]
    products = models.graph("g (float[4,4] x) => (float[4,4] y) { a = Relu(x) y = MatMul(a, a) }")
    assert not ShareWeights()(products).modified


def folded(proto: onnx.ModelProto) -> tuple[ir.Model, ir.Model]:
    normal = normalize(ir.from_proto(proto), simplify=False)
    return normal, prepare_float(normal, harvest_batchnorm(normal), equalize=False)


def test_equal_batch_normalizations_leave_one_weight():
    before, after = folded(siamese())
    assert len(set(inputs(after, 1, "first_p", "first_q"))) == 1
    assert models.largest_difference(before, after) < 1e-4


def test_different_batch_normalizations_do_not_touch_what_others_share():
    proto = siamese()
    next(node for node in proto.graph.node if node.name == "norm_q").input[1] = "other"
    scale = np.linspace(0.5, 1.5, 16, dtype=np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(scale, "other"))
    before, after = folded(proto)
    assert len(set(inputs(after, 1, "first_p", "first_q"))) == 2
    assert len(set(inputs(after, 1, "second_p", "second_q"))) == 1
    assert models.largest_difference(before, after) < 1e-4
