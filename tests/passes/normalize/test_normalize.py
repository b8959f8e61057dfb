import sys
from types import SimpleNamespace

import onnx_ir as ir
import pytest

from passes.checks import GraphInvariant, check
from passes.normalize.normalize import SimplifierError, normalize, run_onnxsim
from tests import models

TOLERANCE = 1e-5  # of the output's magnitude

AWKWARD = """g (float[N,3,9,9] x, float[6,3,3,3] listed) => (float[N,5] logits)
    <float[6,3,3,3] listed, int64[2] hw = {2, 3}, int64[8] p = {0,0,0,0,0,0,1,1}, float[1,6,1,1] bias, int64 i0 = {0},
     int64[1] zero = {0}, int64[1] rest = {-1}, float[6,6,1,1] shared,
     float[6] scale, float[6] shift, float[6] mean, float[6] variance, float[6,5] head, float[5] head_bias>
    { q = Pad(x, p) c = Conv<strides=[2,2]>(q, listed) d = Add(c, bias)
      e = BatchNormalization(d, scale, shift, mean, variance) r = Relu(e)
      one = Conv(r, shared) two = Conv(one, shared) s = Sum(one, two, r) o = Dropout(s)
      m = ReduceMean(o, hw) h = Shape(m) n = Gather(h, i0) u = Unsqueeze(n, zero) t = Concat<axis=0>(u, rest)
      f = Reshape(m, t) g = MatMul(f, head) k = Constant<value_float = 2.0>() v = Mul(head_bias, k)
      dead = Relu(g) logits = Add(g, v) }"""


def awkward() -> ir.Model:
    return models.graph(AWKWARD.replace(", float[6,3,3,3] listed)", ")"))


@pytest.mark.parametrize("simplify", [True, False])
def test_an_awkward_graph_comes_into_normal_form(simplify):
    before = awkward()
    kept = ir.to_proto(before).SerializeToString()
    after = normalize(before, simplify=simplify)
    assert ir.to_proto(before).SerializeToString() == kept, "the given model is not changed"
    check(after, GraphInvariant.NORMALIZED)
    expected = [
        "Conv",
        "BatchNormalization",
        "Relu",
        "Conv",
        "Conv",
        "Add",
        "Add",
        "GlobalAveragePool",
        "Reshape",
        "Gemm",
    ]
    assert sorted(models.operators(after)) == sorted(expected)
    assert models.largest_difference(before, after) < TOLERANCE
    convolutions = [node for node in after.graph if node.op_type == "Conv"]
    assert [node.inputs[1].name for node in convolutions] == ["listed", "shared", "shared"]
    assert [str(value.shape[0]) for value in after.graph.inputs] == ["N"]


@pytest.mark.parametrize("make", [models.conv_bn_relu, models.residual, models.depthwise, models.branches])
def test_normal_graphs_keep_their_nodes_and_names(make):
    before = ir.from_proto(make())
    after = normalize(before)
    assert models.operators(after) == models.operators(before)
    assert [node.name for node in after.graph] == [node.name for node in before.graph]
    assert models.largest_difference(before, after) < TOLERANCE
    again = normalize(after)
    assert ir.to_proto(again).SerializeToString() == ir.to_proto(after).SerializeToString()


def test_initializers_among_the_inputs_are_taken_out():
    proto = models.conv_bn_relu()
    tensor = proto.graph.initializer[0]
    proto.graph.input.append(models.onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    after = normalize(ir.from_proto(proto), simplify=False)
    assert [value.name for value in after.graph.inputs] == ["x"]


def test_a_failing_simplifier_is_an_error_of_its_own(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setitem(sys.modules, "onnxsim", SimpleNamespace(simplify=fail))
    with pytest.raises(SimplifierError, match="bad_alloc"):
        run_onnxsim(models.residual())
    assert normalize(ir.from_proto(models.residual()), simplify=False)


def test_the_comparison_sees_another_network():
    assert (
        models.largest_difference(
            awkward(), normalize(models.graph(AWKWARD.replace(", float[6,3,3,3] listed)", ")"), seed=1))
        )
        > 0.1
    )


def test_sums_and_products_behind_a_layer_are_fused_in_turn():
    text = """g (float[N,3,5,5] x) => (float[N,6,5,5] y)
        <float[6,3,1,1] w, float[6,1,1] a_scale, float[1,6,1,1] b, float c>
        { k = Conv(x, w) m = Mul(k, a_scale) p = Add(m, b) q = Mul(p, c) y = Sub(q, b) }"""
    model = normalize(models.graph(text), simplify=False)
    assert models.operators(model) == ["Conv"]
    assert models.largest_difference(models.parse(text), model) < TOLERANCE
