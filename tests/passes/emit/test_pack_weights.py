from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import PassError

from backends.catalog import load_target
from passes.emit.pack_weights import PackWeights
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, optimized_operators, prepare, random_feeds, with_scales


def quantized(model: onnx.ModelProto, *, bits: int = 4) -> tuple[ir.Model, frozenset[str]]:
    float_model = prepare(model)
    plan = place_quantizers(float_model, load_target("ort_cpu"), bits=bits, edge_bits=bits)
    plan = with_scales(plan, float_model, random_feeds(float_model))
    return inserted(float_model, plan), frozenset(f"{site.initializer}_quantized" for site in plan.weights)


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches])
def test_packed_weights_run_bit_equal_and_as_fused_as_before(make: object, bits: int, tmp_path: Path) -> None:
    assert callable(make)
    model, names = quantized(make(), bits=bits)
    feeds = random_feeds(model)
    plain, plain_operators = execute(model, feeds), optimized_operators(model, tmp_path)

    assert PackWeights(names)(model).modified

    packed = execute(model, feeds)  # checks the model, too
    for name in plain:
        np.testing.assert_array_equal(packed[name], plain[name])
    operators = optimized_operators(model, tmp_path)
    assert operators == plain_operators
    assert "Cast" not in operators and "QLinearConv" in operators


def test_two_codes_share_a_byte() -> None:
    model, names = quantized(models.branches())  # w1 has 4 codes, w0 36, and w3 256
    PackWeights(names)(model)
    stored = {tensor.name: tensor for tensor in ir.to_proto(model).graph.initializer}
    for name in names:
        count = int(np.prod(stored[name].dims))
        assert stored[name].data_type == onnx.TensorProto.INT4
        assert len(stored[name].raw_data) == (count + 1) // 2


def test_an_odd_number_of_codes_keeps_its_last_one() -> None:
    text = "g (float[N,3] x) => (float[N,3] y) <float[3,3] w, float[3] b> { [a] y = Gemm(x, w, b) }"
    model, names = quantized(models.parse(text))
    feeds = random_feeds(model)
    before = execute(model, feeds)["y"]
    PackWeights(names)(model)
    (stored,) = (tensor for tensor in ir.to_proto(model).graph.initializer if tensor.name in names)
    assert len(stored.raw_data) == 5
    np.testing.assert_array_equal(execute(model, feeds)["y"], before)


def test_a_second_run_changes_nothing() -> None:
    model, names = quantized(models.residual())
    PackWeights(names)(model)
    text = onnx.printer.to_text(ir.to_proto(model))
    assert PackWeights(names)(model).modified is False
    assert onnx.printer.to_text(ir.to_proto(model)) == text


def test_only_the_named_weights_are_packed() -> None:
    model, names = quantized(models.residual())
    chosen = sorted(names)[0]
    PackWeights(frozenset({chosen, "no such weight", "x_scale"}))(model)
    packed = {name for name, value in model.graph.initializers.items() if value.dtype == ir.DataType.INT4}
    assert packed == {chosen}
    assert sum(node.op_type == "Cast" for node in model.graph) == 1


def test_codes_that_do_not_fit_are_refused_with_the_name() -> None:
    model, names = quantized(models.residual(), bits=8)
    with pytest.raises(PassError, match=r"requires codes in \[-8, 7\].*w0_quantized.*more bits"):
        PackWeights(names)(model)


def test_a_weight_that_several_nodes_read_is_widened_before_all_of_them() -> None:
    model = models.parse(
        """
        g (float[N,3] x) => (float[N,3] y) <int8[3,3] codes, float step = {0.5}>
        {
            [d0] a = DequantizeLinear(codes, step)
            [m0] t = MatMul(x, a)
            [d1] b = DequantizeLinear(codes, step)
            [m1] y = MatMul(t, b)
        }
        """,
        weights={"codes": np.arange(-4, 5)},
    )
    working = ir.from_proto(model)
    feeds = random_feeds(model)
    before = execute(model, feeds)["y"]
    assert PackWeights(frozenset({"codes"}))(working).modified
    np.testing.assert_array_equal(execute(working, feeds)["y"], before)


def test_a_weight_that_nobody_reads_is_left_alone() -> None:
    model = ir.from_proto(
        models.parse("g (float[N] x) => (float[N] y) <int8[4] codes> { y = Relu(x) }", weights={"codes": np.ones(4)})
    )
    assert PackWeights(frozenset({"codes"}))(model).modified is False


@pytest.mark.parametrize("make", [models.residual, models.branches])
def test_native_weights_are_read_by_dequantize_linear_itself(make: object) -> None:
    assert callable(make)
    model, names = quantized(make())
    feeds = random_feeds(model)
    before = execute(model, feeds, optimize="none")
    assert PackWeights(names, native=True)(model).modified
    proto = ir.to_proto(model)
    assert not any(node.op_type == "Cast" for node in proto.graph.node)
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if set(node.input) & names:
            assert [kinds[name] for name in (node.input[0], node.input[2])] == [onnx.TensorProto.INT4] * 2
    after = execute(model, feeds, optimize="none")
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    assert not PackWeights(names, native=True)(model).modified
