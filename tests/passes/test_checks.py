from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.checks import GraphInvariant, IllegalGraphError, check, violations
from passes.normalize.normalize import normalize
from tests import models


def normal() -> ir.Model:
    return normalize(ir.from_proto(models.residual()), simplify=False)


def reasons(model: ir.Model, door: GraphInvariant) -> str:
    return "; ".join(item.reason for item in violations(model, door))


def test_normal_and_folded_graphs_pass():
    model = normal()
    check(model, GraphInvariant.NORMALIZED)
    assert "not folded" in reasons(model, GraphInvariant.FOLDED)
    FoldBatchNorm()(model)
    check(model, GraphInvariant.FOLDED)


def test_a_batchnorm_that_cannot_be_folded_may_stay():
    text = """g (float[N,4,6,6] x) => (float[N,4,6,6] y)
        <float[4] scale, float[4] shift, float[4] mean, float[4] variance>
        { n = BatchNormalization(x, scale, shift, mean, variance) y = Relu(n) }"""
    check(normalize(models.graph(text), simplify=False), GraphInvariant.FOLDED)


def old(model: ir.Model) -> None:
    model.graph.opset_imports[""] = 20


def nameless(model: ir.Model) -> None:
    model.graph[0].name = None


def twice(model: ir.Model) -> None:
    model.graph[1].name = model.graph[0].name


def constant(model: ir.Model) -> None:
    node = ir.node("Constant", [], {"value_float": 1.0}, name="constant")
    model.graph.insert_before(model.graph[0], node)
    node.outputs[0].shape = ir.Shape([])


def training(model: ir.Model) -> None:
    model.graph[1].attributes["training_mode"] = ir.AttrInt64("training_mode", 1)


def listed(model: ir.Model) -> None:
    model.graph.inputs.append(model.graph.initializers["w0"])


def shapeless(model: ir.Model) -> None:
    model.graph[2].outputs[0].shape = None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (old, "opset 20"),
        (nameless, "no name"),
        (twice, "2 nodes have this name"),
        (constant, "must be initializers"),
        (training, "training mode"),
        (listed, "listed as a graph input"),
        (shapeless, "cannot be inferred"),
    ],
)
def test_every_rule_of_the_normal_form_can_be_broken(spoil: Callable[[ir.Model], None], reason: str):
    model = normal()
    spoil(model)
    assert reason in reasons(model, GraphInvariant.NORMALIZED)
    with pytest.raises(IllegalGraphError, match="NORMALIZED") as caught:
        check(model, GraphInvariant.NORMALIZED)
    assert caught.value.violations == violations(model, GraphInvariant.NORMALIZED)


def test_control_flow_is_not_normal():
    text = """g (float[2] x, bool c) => (float[2] y)
        { y = If (c) <then_branch = t () => (float[2] a) { a = Relu(x) },
                      else_branch = e () => (float[2] b) { b = Abs(x) }> }"""
    assert "graph of its own" in reasons(models.graph(text), GraphInvariant.NORMALIZED)


QDQ = """g (float[N,4,6,6] x) => (float[N,2,6,6] y)
    <float sx = {0.5}, uint8 zx = {3}, int8[2,4,1,1] w, float[2] sw = {0.25, 0.125}, int8[2] zw = {0, 0},
     int32[2] b, float[2] sb = {0.125, 0.0625}, int32[2] zb = {0, 0}>
    { [q] xq = QuantizeLinear(x, sx, zx) [dx] xd = DequantizeLinear(xq, sx, zx)
      [dw] wd = DequantizeLinear<axis=0>(w, sw, zw) [db] bd = DequantizeLinear<axis=0>(b, sb, zb)
      [conv] y = Conv(xd, wd, bd) }"""


def emitted(**changes: np.ndarray) -> ir.Model:
    model = models.graph(QDQ)
    for name, array in changes.items():
        model.graph.initializers[name].const_value = ir.Tensor(array)
        model.graph.initializers[name].dtype = ir.DataType.from_numpy(array.dtype)
    return model


def test_a_quantized_graph_passes():
    check(emitted(), GraphInvariant.EMITTED)


@pytest.mark.parametrize(
    ("changes", "where", "reason"),
    [
        ({"sx": np.array(0.0, np.float32)}, "q", "positive and finite"),
        ({"sw": np.array([0.25, np.nan], np.float32)}, "dw", "positive and finite"),
        ({"sw": np.array([0.25, -1.0], np.float32)}, "dw", "positive and finite"),
        ({"sb": np.array([0.125, 0.06251], np.float32)}, "conv", "product"),
        ({"zw": np.zeros(2, np.uint8)}, "dw", "its zero point is UINT8"),
        ({"zw": np.array([0], np.int8)}, "dw", "shape of its scale"),
        ({"zb": np.array([0, 1], np.int32)}, "db", "zero point 0"),
        ({"sw": np.ones(3, np.float32), "zw": np.zeros(3, np.int8)}, "dw", "3 scales for axis 0"),
    ],
)
def test_every_rule_of_emitted_graphs_can_be_broken(changes, where, reason):
    found = violations(emitted(**changes), GraphInvariant.EMITTED)
    assert any(item.where == where and reason in item.reason for item in found), found


def test_scales_of_a_bias_may_be_rounded_to_float32():
    exact = np.array([0.125, 0.0625], np.float32)
    check(emitted(sb=np.nextafter(exact, 1, dtype=np.float32)), GraphInvariant.EMITTED)


@pytest.mark.parametrize(("axis", "reason"), [(1, "scales for axis 1"), (7, "axis 7 does not exist")])
def test_axes_of_scales_must_exist_and_fit(axis, reason):
    model = emitted()
    node = next(node for node in model.graph if node.name == "dw")
    node.attributes["axis"] = ir.AttrInt64("axis", axis)
    assert reason in reasons(model, GraphInvariant.EMITTED)


def test_scales_of_a_weight_belong_to_the_output_channels():
    text = """g (float[N,2] x) => (float[N,2] y)
        <float sx = {0.5}, uint8 zx = {3}, int8[2,2] w, float[2] sw = {0.25, 0.125}>
        { xq = QuantizeLinear(x, sx, zx) xd = DequantizeLinear(xq, sx, zx)
          wd = DequantizeLinear<axis=0>(w, sw) [fc] y = Gemm(xd, wd) }"""
    assert "its outputs are axis 1" in reasons(models.graph(text), GraphInvariant.EMITTED)
    transposed = models.graph(text.replace("y = Gemm(", "y = Gemm<transB=1>("))
    assert "its outputs" not in reasons(transposed, GraphInvariant.EMITTED)


def test_an_int32_bias_needs_quantized_data():
    model = models.graph(QDQ.replace("Conv(xd,", "Conv(x,"))
    assert "its data or its weight is not quantized" in reasons(model, GraphInvariant.EMITTED)


def test_a_computed_scale_is_refused():
    text = """g (float[4] x, float s) => (float[4] y) <uint8 z = {0}>
        { [q] a = QuantizeLinear(x, s, z) [d] y = DequantizeLinear(a, s, z) }"""
    assert "not constant" in reasons(models.graph(text), GraphInvariant.EMITTED)


def test_a_transposed_convolution_in_groups_has_no_axis_for_its_output_channels():
    text = """g (float[N,4,3,3] x) => (float[N,4,H,W] y)
        <float sx = {0.5}, uint8 zx = {3}, int8[4,2,2,2] w, float[2] sw = {0.25, 0.125}>
        { xq = QuantizeLinear(x, sx, zx) xd = DequantizeLinear(xq, sx, zx)
          wd = DequantizeLinear<axis=1>(w, sw) [up] y = ConvTranspose<group=2>(xd, wd) }"""
    assert "its outputs are along no single axis" in reasons(models.graph(text), GraphInvariant.EMITTED)


@pytest.mark.parametrize(
    ("scales", "axis", "reason"),
    [
        ("2,3", 0, None),
        ("1,3", 0, r"its scales are (1, 3); blocks of 16 want (2, 3)"),
        ("20,1", 1, "its weight has blocks along axis 1, where its outputs are"),
    ],
)
def test_blocks_have_a_scale_each_and_lie_along_what_is_summed(scales, axis, reason):
    text = f"""
    g (float[N,20] x) => (float[N,3] y) <int8[20,3] w, float[{scales}] scale>
    {{ [d] r = DequantizeLinear<axis={axis}, block_size=16>(w, scale)
       [m] y = MatMul(x, r) }}
    """
    found = reasons(models.graph(text), GraphInvariant.EMITTED)
    assert found == "" if reason is None else reason in found
