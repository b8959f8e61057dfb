"""Matrix products with 4-bit weights in blocks: which, how, and what the runtime makes of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import PassError

from backends.catalog import load_target
from backends.session import open_session
from backends.target import Blockwise, Target
from passes.constants import constant_value
from passes.emit.block_matmul import BlockMatMul, row_count
from passes.emit.check_target import target_violations
from passes.emit.emit import emit
from passes.graph_pass import Outcome
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, optimized_operators, prepare, random_feeds, sqnr, with_scales

CPU = load_target("ort_cpu")
TARGET = replace(CPU, blockwise=Blockwise(block_size=32, least_weights=1000, most_rows=1))
EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}  # data stay float32 in the kernel; by default they become int8
PERCEPTRON = """
    perceptron (float[N,40] x) => (float[N,6] y)
    <float[40,50] w0, float[50] b0, float[64,50] w1, float[64] b1, float[6,64] w2, float[6] b2>
    {
        [fc0] g0 = Gemm(x, w0, b0)
        [relu0] r0 = Relu(g0)
        [fc1] g1 = Gemm<transB=1>(r0, w1, b1)
        [relu1] r1 = Relu(g1)
        [fc2] y = Gemm<transB=1>(r1, w2, b2)
    }
"""
CONVOLUTION = """
    convolution (float[N,4,4,4] x) => (float[N,20] y)
    <float[8,4,3,3] w0, float[8] b0, float[128,20] w1, float[20] b1>
    {
        [conv] c = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [relu] r = Relu(c)
        [flat] f = Flatten(r)
        [fc] y = Gemm(f, w1, b1)
    }
"""


def quantized(text: str, *, bits: int = 4, act_bits: int = 8) -> tuple[ir.Model, QuantizationPlan]:
    model = prepare(models.parse(text))
    plan = place_quantizers(model, TARGET, bits=bits, act_bits=act_bits, edge_bits=bits)
    plan = with_scales(plan, model, random_feeds(model, batch=64))
    return inserted(model, plan), plan


def names(plan: QuantizationPlan) -> frozenset[str]:
    return frozenset(f"{site.initializer}_quantized" for site in plan.weights)


def blocked(text: str, target: Target = TARGET, **widths: int) -> tuple[ir.Model, Outcome]:
    model, plan = quantized(text, **widths)
    outcome = BlockMatMul(names(plan), target)(model)
    assert isinstance(outcome, Outcome)
    return model, outcome


def reasons(text: str, target: Target = TARGET) -> dict[str, str]:
    _, outcome = blocked(text, target)
    return {refusal.where: refusal.reason for refusal in outcome.refusals}


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def node(model: ir.Model, name: str) -> ir.Node:
    return next(one for one in model.graph if one.name == name)


def test_layers_that_fit_are_written_in_blocks_and_the_runtime_reads_them_so(tmp_path: Path) -> None:
    model, outcome = blocked(PERCEPTRON)
    assert outcome.modified
    assert [refusal.where for refusal in outcome.refusals] == ["fc2"]
    assert optimized_operators(model, tmp_path) == [
        *("MatMulNBits", "Sub", "Relu", "MatMulNBits", "Sub"),
        *("QuantizeLinear", "QGemm"),
    ]
    for name, sizes in (("fc0", [40, 50]), ("fc1", [50, 64])):
        dequantize = node(model, name).inputs[1].producer()
        codes = dequantize.inputs[0].const_value
        assert (codes.dtype, list(codes.shape)) == (ir.DataType.INT4, sizes)
        assert constant_value(dequantize.inputs[1]).shape == (2, sizes[1])


def test_the_weights_are_the_same_numbers() -> None:
    before, plan = quantized(PERCEPTRON)
    wanted = {name: constant_value(node(before, name).inputs[1]) for name in ("fc0", "fc1")}
    BlockMatMul(names(plan), TARGET)(before)
    for name, array in wanted.items():
        found = constant_value(node(before, name).inputs[1])
        np.testing.assert_array_equal(found, array if name == "fc0" else array.T)


@pytest.mark.parametrize("text", [PERCEPTRON, CONVOLUTION])
def test_the_runtime_gives_the_numbers_of_float_products(text: str) -> None:
    model, _ = blocked(text)
    feeds = random_feeds(model)
    exact = open_session(ir.to_proto(model), threads=1, config=EXACT).run(feeds)["y"]
    plain = execute(model, feeds, optimize="none")["y"]
    if text is PERCEPTRON:  # a code of the value behind may flip by one
        assert sqnr(plain, exact) > 60.0
    else:
        np.testing.assert_allclose(exact, plain, rtol=1e-5, atol=1e-5)
    assert sqnr(plain, execute(model, feeds)["y"]) > 36.0  # int8 data in the kernel, a scale for each block


@pytest.mark.parametrize("text", [PERCEPTRON, CONVOLUTION])
def test_outputs_stay_within_a_step_of_those_of_the_other_form(text: str) -> None:
    before, plan = quantized(text)
    feeds = random_feeds(before, batch=64)
    wanted = execute(before, feeds)["y"]
    BlockMatMul(names(plan), TARGET)(before)
    found = execute(before, feeds)["y"]
    step = (wanted.max() - wanted.min()) / 255
    assert np.mean(np.abs(found - wanted) > step) < 0.1  # the noise of the quantizers that are gone or new
    assert np.abs(found - wanted).max() < 4 * step


def test_data_that_an_integer_kernel_makes_keep_their_quantizer(tmp_path: Path) -> None:
    model, _ = blocked(CONVOLUTION)
    assert node(model, "fc").inputs[0].producer().op_type == "Flatten"
    assert optimized_operators(model, tmp_path)[-6:] == [
        *("Transpose", "Flatten", "DequantizeLinear", "Flatten", "MatMulNBits", "Sub")
    ]


def test_an_int8_layer_in_front_and_one_behind_stay_in_integers(tmp_path: Path) -> None:
    model, _ = quantized(PERCEPTRON)
    BlockMatMul(frozenset({"w1_quantized"}), TARGET)(model)
    assert optimized_operators(model, tmp_path) == [
        *("QuantizeLinear", "QGemm", "DequantizeLinear", "Flatten", "MatMulNBits", "Sub", "QuantizeLinear", "QGemm")
    ]


def test_values_of_fewer_bits_keep_their_quantizer() -> None:
    model, plan = quantized(PERCEPTRON, act_bits=4)
    BlockMatMul(names(plan), TARGET)(model)
    assert node(model, "fc1").inputs[0].producer().op_type == "Flatten"
    assert operators(model).count("Clip") == 1  # what enters the network and its last layer has 8 bits
    assert node(model, "fc0").inputs[0].is_graph_input()


def test_a_value_that_others_read_quantized_keeps_its_quantizer_for_them(tmp_path: Path) -> None:
    model, _ = blocked(
        """
        g (float[N,40] x) => (float[N,30] y, float[N,5] z)
        <float[40,30] w0, float[30] b0, float[40,5] w1, float[5] b1>
        { [large] y = Gemm(x, w0, b0)
          [small] z = Gemm(x, w1, b1) }
        """
    )
    assert node(model, "large").inputs[0].is_graph_input()
    assert node(model, "small").inputs[0].producer().op_type == "DequantizeLinear"
    assert sorted(optimized_operators(model, tmp_path)) == ["MatMulNBits", "QGemm", "QuantizeLinear", "Sub"]


def test_layers_that_read_one_quantized_value_share_its_shelter() -> None:
    model, _ = blocked(
        """
        g (float[N,4,4,4] x) => (float[N,30] y, float[N,30] z)
        <float[8,4,3,3] w, float[8] b, float[128,30] w0, float[30] b0, float[128,30] w1, float[30] b1>
        { [conv] c = Conv<pads=[1,1,1,1]>(x, w, b)
          [flat] f = Flatten(c)
          [one] y = Gemm(f, w0, b0)
          [two] z = Gemm(f, w1, b1) }
        """
    )
    assert node(model, "one").inputs[0] is node(model, "two").inputs[0]
    assert operators(model).count("Flatten") == 2


@pytest.mark.parametrize("behind", ["Relu", "Sigmoid"])
def test_a_product_without_bias_is_kept_apart_from_what_would_swallow_it(tmp_path: Path, behind: str) -> None:
    model, _ = blocked(
        f"""
        g (float[N,40] x) => (float[N,30] y) <float[40,30] w0>
        {{ [product] m = MatMul(x, w0)
          [behind] y = {behind}(m) }}
        """
    )
    assert ("Flatten" in operators(model)) == (behind == "Relu")
    assert "MatMulNBits" in optimized_operators(model, tmp_path)


def test_tokens_with_float_data_are_written_in_blocks(tmp_path: Path) -> None:
    text = "g (float[1,1,40] x) => (float[1,1,30] y) <float[40,30] w> { [product] y = MatMul(x, w) }"
    model, _ = blocked(text)
    assert optimized_operators(model, tmp_path) == ["MatMulNBits"]


REFUSED = {
    "it has 960 weights": "g (float[N,40] x) => (float[N,24] y) <float[40,24] w> { [m] y = MatMul(x, w) }",
    "its data have 2 rows": "g (float[2,40] x) => (float[2,30] y) <float[40,30] w> { [m] y = MatMul(x, w) }",
    "its data have 7 rows": "g (float[N,7,40] x) => (float[N,7,30] y) <float[40,30] w> { [m] y = MatMul(x, w) }",
    "number of rows": "g (float[N,T,40] x) => (float[N,T,30] y) <float[40,30] w> { [m] y = MatMul(x, w) }",
    "its output is no matrix": """
        g (float[1,1,40] x) => (float[1,1,30] y) <float[40,30] w> { [m] p = MatMul(x, w)
          [relu] y = Relu(p) }
    """,
    "its data are quantized and no matrix": """
        g (float[1,8,1,8] x) => (float[1,8,1,300] y) <float[8,8,1,1] w0, float[8] b0, float[8,300] w>
        { [conv] c = Conv(x, w0, b0)
          [m] y = MatMul(c, w) }
    """,
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_fit_is_left_alone_with_the_reason(words: str) -> None:
    rule = replace(TARGET.blockwise, most_rows=8 if words == "its data are quantized and no matrix" else 1)
    target = replace(TARGET, blockwise=rule)
    model, plan = quantized(REFUSED[words])
    before = onnx.printer.to_text(ir.to_proto(model))
    outcome = BlockMatMul(names(plan), target)(model)
    assert isinstance(outcome, Outcome)
    assert not outcome.modified
    assert words in {refusal.where: refusal.reason for refusal in outcome.refusals}["m"]
    assert onnx.printer.to_text(ir.to_proto(model)) == before


def test_the_thresholds_are_met_exactly() -> None:
    text = "g (float[2,40] x) => (float[2,30] y) <float[40,30] w> { [m] y = MatMul(x, w) }"
    for rule, fits in (
        (Blockwise(block_size=32, least_weights=1200, most_rows=2), True),
        (Blockwise(block_size=32, least_weights=1201, most_rows=2), False),
        (Blockwise(block_size=32, least_weights=1200, most_rows=1), False),
        (Blockwise(), False),
    ):
        assert blocked(text, replace(CPU, blockwise=rule))[1].modified == fits


def test_a_second_run_changes_nothing() -> None:
    model, plan = quantized(PERCEPTRON)
    assert BlockMatMul(names(plan), TARGET)(model).modified
    text = onnx.printer.to_text(ir.to_proto(model))
    assert BlockMatMul(names(plan), TARGET)(model).modified is False
    assert onnx.printer.to_text(ir.to_proto(model)) == text


def test_names_of_outputs_and_layers_stay_and_nothing_unread_is_left() -> None:
    model, _ = blocked("g (float[N,40] x) => (float[N,30] y) <float[40,30] w, float[30] b> { [fc] y = Gemm(x, w, b) }")
    assert operators(model) == ["Expand", "DequantizeLinear", "MatMul", "Sub"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert node(model, "fc").op_type == "MatMul"
    assert all(value.uses() for value in model.graph.initializers.values())


@pytest.mark.parametrize(
    ("attributes", "shape", "words"),
    [("alpha=0.5", "N,40", "scales its product"), ("transA=1", "40,1", "transposes its data")],
)
def test_a_gemm_that_does_more_is_left_alone(attributes: str, shape: str, words: str) -> None:
    model = ir.from_proto(
        models.parse(
            f"""
            g (float[{shape}] x) => (float[N,40] y) <int8[40,40] codes, float step = {{0.5}}, float[40] b>
            {{ [d] a = DequantizeLinear(codes, step)
               [m] y = Gemm<{attributes}>(x, a, b) }}
            """,
            weights={"codes": np.arange(1600) % 15 - 7},
        )
    )
    outcome = BlockMatMul(frozenset({"codes"}), TARGET)(model)
    assert isinstance(outcome, Outcome) and not outcome.modified
    assert words in outcome.refusals[0].reason


def test_a_shared_weight_is_left_alone() -> None:
    model = ir.from_proto(
        models.parse(
            """
            g (float[N,40] x) => (float[N,40] y) <int8[40,40] codes, float step = {0.5}>
            { [d0] a = DequantizeLinear(codes, step)
              [m0] t = MatMul(x, a)
              [m1] y = MatMul(t, a) }
            """,
            weights={"codes": np.arange(1600) % 15 - 7},
        )
    )
    outcome = BlockMatMul(frozenset({"codes"}), TARGET)(model)
    assert isinstance(outcome, Outcome) and not outcome.modified
    assert {refusal.reason for refusal in outcome.refusals} == {"others read its weight, too"}


def test_codes_that_do_not_fit_are_refused_with_the_name() -> None:
    model, plan = quantized(PERCEPTRON, bits=8)
    with pytest.raises(PassError, match=r"BlockMatMul requires codes in \[-8, 7\].*w0_quantized"):
        BlockMatMul(names(plan), TARGET)(model)


@pytest.mark.parametrize("bits", [8, 3, 2])
def test_other_widths_are_written_as_ever(bits: int) -> None:
    graphs = []
    for target in (TARGET, replace(CPU, blockwise=Blockwise())):
        model, plan = quantized(PERCEPTRON, bits=bits)
        emit(model, plan, target)
        graphs.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert graphs[0] == graphs[1]


def test_the_form_costs_no_bytes() -> None:
    sizes = []
    for target in (TARGET, replace(CPU, blockwise=Blockwise())):
        model, plan = quantized(PERCEPTRON)
        emit(model, plan, target)
        assert target_violations(model, target) == ()
        sizes.append(ir.to_proto(model).ByteSize())
    assert 0 <= sizes[1] - sizes[0] < 500  # two quantizers and the zero points less


@pytest.mark.parametrize(
    ("shape", "rows"),
    [([5, 7], 5), (["N", 7], 1), (["N", 3, 7], 3), ([2, 3, 7], 6), (["N", "T", 7], None), ([7], 1), (None, None)],
)
def test_rows_are_counted_with_an_open_batch_as_one(shape: list[int | str] | None, rows: int | None) -> None:
    assert row_count(ir.Value(name="v", shape=None if shape is None else ir.Shape(shape))) == rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("g (float[N,32] x) => (float[N,32] y) { y = Relu(x) }", 1),
        ("g (float[8,32] x) => (float[8,32] y) { y = Relu(x) }", 8),
        ("g (float[N,196,32] x) => (float[N,196,32] y) { y = Relu(x) }", 196),
        ("g (float[N,196,32] x) => (float[M,32] y) <int64[2] s = {-1, 32}> { r = Reshape(x, s) y = Relu(r) }", 196),
        ("g (float[N,32,1,1] x) => (float[M,32] y) <int64[2] s = {-1, 32}> { r = Reshape(x, s) y = Relu(r) }", 1),
        ("g (float[N,T,32] x) => (float[M,32] y) <int64[2] s = {-1, 32}> { r = Reshape(x, s) y = Relu(r) }", None),
        ("g (float[N,T,32] x) => (float[N,T,32] y) { y = Relu(x) }", None),
    ],
)
def test_rows_of_one_sample(text: str, rows: int | None) -> None:
    model = prepare(models.parse(text))
    assert row_count(model.graph.outputs[0]) == rows
