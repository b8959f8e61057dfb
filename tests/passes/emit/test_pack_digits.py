from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import PassError

from backends.catalog import load_target
from passes.checks import GraphInvariant, check
from passes.emit.emit import emit
from passes.emit.pack_digits import DENSE_BITS, PackDigits, digits_pay, to_words
from passes.emit.pack_weights import PackWeights
from passes.emit.slim import Slim
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, optimized_operators, prepare, random_feeds, with_scales

TARGET = load_target("ort_cpu")


def wide() -> onnx.ModelProto:
    """4,608 and 6,912 codes, which are multiples of neither 21 nor 31, and 24, which are too few for words."""
    return models.parse(
        """
        wide (float[N,8,6,6] x) => (float[N,4,6,6] y)
        <float[64,8,3,3] w0, float[64] b0, float[12,64,3,3] w1, float[12] b1, float[12,2,1,1] w2, float[12] b2,
         float[4,12,1,1] w3, float[4] b3>
        {
            [conv0] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
            [relu0] r0 = Relu(c0)
            [conv1] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
            [relu1] r1 = Relu(c1)
            [conv2] c2 = Conv<group=6>(r1, w2, b2)
            [relu2] r2 = Relu(c2)
            [conv3] y = Conv(r2, w3, b3)
        }
        """
    )


def quantized(make: Callable[[], onnx.ModelProto], bits: int) -> tuple[ir.Model, QuantizationPlan]:
    float_model = prepare(make())
    plan = place_quantizers(float_model, TARGET, bits=bits, edge_bits=bits, quantize_outputs=True)
    plan = with_scales(plan, float_model, random_feeds(float_model))
    return inserted(float_model, plan), plan


def widths(plan: QuantizationPlan) -> dict[str, int]:
    return {f"{site.initializer}_quantized": site.number_format.bits for site in plan.weights}


def stored(model: ir.Model) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in ir.to_proto(model).graph.initializer}


@pytest.mark.parametrize("bits", DENSE_BITS)
def test_packed_weights_run_bit_equal_and_as_fused_as_before(bits: int, tmp_path: Path) -> None:
    model, plan = quantized(wide, bits)
    feeds = random_feeds(model)
    plain, plain_operators = execute(model, feeds), optimized_operators(model, tmp_path)

    assert PackDigits(widths(plan))(model).modified

    check(model, GraphInvariant.EMITTED)
    for optimize in ("all", "none"):  # folded at load, and run as it stands
        packed = execute(model, feeds, optimize=optimize)
        for name in plain:
            np.testing.assert_array_equal(packed[name], plain[name])
    assert optimized_operators(model, tmp_path) == plain_operators
    assert plain_operators.count("QLinearConv") == 4


@pytest.mark.parametrize("bits", DENSE_BITS)
def test_no_word_is_wasted(bits: int) -> None:
    model, plan = quantized(wide, bits)
    PackDigits(widths(plan))(model)
    kept = stored(model)
    for name, count in (("w0_quantized", 4608), ("w1_quantized", 6912)):
        assert kept[name].data_type == onnx.TensorProto.INT64
        assert len(kept[name].raw_data) == 8 * int(np.ceil(count / (63 // bits)))
    assert kept["w2_quantized"].data_type == onnx.TensorProto.INT8  # 24 codes, left for PackWeights


@pytest.mark.parametrize("bits", DENSE_BITS)
def test_words_hold_every_code_lowest_first(bits: int) -> None:
    half = 1 << (bits - 1)
    codes = np.random.default_rng(0).integers(-half, half, (5, 7, 3)).astype(np.int8)
    words = to_words(codes, bits)
    assert (words >= 0).all() and words.shape == (-(-105 // (63 // bits)), 1)
    read = [(int(words[i // (63 // bits), 0]) >> (bits * (i % (63 // bits)))) % (1 << bits) - half for i in range(105)]
    np.testing.assert_array_equal(np.array(read).reshape(codes.shape), codes)
    ends = to_words(np.full(63 // bits, half - 1), bits)
    assert int(ends[0, 0]) == (1 << bits * (63 // bits)) - 1 < 1 << 63


@pytest.mark.parametrize("bits", DENSE_BITS)
def test_the_file_gets_smaller_by_it(bits: int) -> None:
    sizes = {}
    for digits in (True, False):
        model, plan = quantized(wide, bits)
        if digits:
            PackDigits(widths(plan))(model)
        PackWeights(frozenset(widths(plan)))(model)
        Slim()(model)
        sizes[digits] = ir.to_proto(model).ByteSize()
    # what the words save, less 300 bytes of nodes for each of the two weights and 300 of constants for both
    saved = sum(count // 2 - 8 * -(-count // (63 // bits)) for count in (4608, 6912)) - 3 * 300
    assert sizes[True] < sizes[False] - max(saved, 0)


def test_small_weights_and_other_widths_do_not_pay() -> None:
    assert not digits_pay(24, 2)
    assert not digits_pay(1 << 20, 4)
    assert digits_pay(1 << 20, 3) and digits_pay(1 << 20, 2)


def test_a_second_run_changes_nothing() -> None:
    model, plan = quantized(wide, 3)
    PackDigits(widths(plan))(model)
    text = onnx.printer.to_text(ir.to_proto(model))
    assert PackDigits(widths(plan))(model).modified is False
    assert onnx.printer.to_text(ir.to_proto(model)) == text


def test_codes_that_do_not_fit_are_refused_with_the_name() -> None:
    model, _ = quantized(wide, 4)
    with pytest.raises(PassError, match=r"requires codes in \[-4, 3\] for 3 bits.*w0_quantized.*more bits"):
        PackDigits({"w0_quantized": 3})(model)


def test_a_weight_that_several_nodes_read_is_taken_apart_before_all_of_them() -> None:
    model = models.parse(
        """
        g (float[N,64] x) => (float[N,64] y) <int8[64,64] codes, float step = {0.05}>
        {
            [d0] a = DequantizeLinear(codes, step)
            [m0] t = MatMul(x, a)
            [d1] b = DequantizeLinear(codes, step)
            [m1] y = MatMul(t, b)
        }
        """,
        weights={"codes": np.arange(64 * 64) % 4 - 2},
    )
    working = ir.from_proto(model)
    feeds = random_feeds(model)
    before = execute(model, feeds)["y"]
    assert PackDigits({"codes": 2, "no such weight": 2})(working).modified
    np.testing.assert_array_equal(execute(working, feeds)["y"], before)


def test_a_weight_that_nobody_reads_is_left_alone() -> None:
    text = "g (float[N] x) => (float[N] y) <int8[4000] codes> { y = Relu(x) }"
    model = ir.from_proto(models.parse(text, weights={"codes": np.ones(4000)}))
    assert PackDigits({"codes": 2})(model).modified is False


@pytest.mark.parametrize(("bits", "kind"), [(2, "INT64"), (3, "INT64"), (4, "INT4"), (8, "INT8")])
def test_emitting_stores_each_width_as_the_target_says(bits: int, kind: str) -> None:
    model, plan = quantized(wide, bits)
    feeds = random_feeds(model)
    before = execute(model, feeds)
    emit(model, plan, TARGET)
    assert stored(model)["w0_quantized"].data_type == onnx.TensorProto.DataType.Value(kind)
    assert all(not node.name for node in model.graph if node.op_type in ("Div", "Mod", "Sub", "Cast"))
    after = execute(model, feeds)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
