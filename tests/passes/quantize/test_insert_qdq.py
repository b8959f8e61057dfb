from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx_ir.passes import PassError, PreconditionError

from backends.catalog import load_target
from backends.target import NumberFormat
from passes.normalize.share_weights import ShareWeights
from passes.plan import QuantizationPlan, Scale
from passes.quantize.insert_qdq import InsertQdq
from passes.quantize.place_quantizers import place_quantizers
from passes.quantizer_grid import dequantize_array, quantize_array
from tests import models
from tests.models import parse
from tests.quantizing import (
    every_value,
    execute,
    inserted,
    optimized_operators,
    prepare,
    random_feeds,
    simulate,
    sqnr,
    with_scales,
)
from tests.sharing import siamese, unrolled

TARGET = load_target("ort_cpu")
EQUAL = 60.0  # dB; a code may flip where a sum lands on the edge between two, and nothing else may differ

OWN = {
    "one-dimensional": """
        g (float[N,4,12] x) => (float[N,3] y)
        <float[6,2,3] w0, float[6] b0, float[6,1,3] w1, float[6,3] w2, float[3] b2>
        {
            [grouped] a = Conv<group=2, pads=[1,1], strides=[2]>(x, w0, b0)
            [relu] b = Relu(a)
            [depthwise] c = Conv<group=6, pads=[2,2], dilations=[2]>(b, w1)
            [pool] d = GlobalAveragePool(c)
            [flatten] e = Flatten(d)
            [gemm] y = Gemm(e, w2, b2)
        }
        """,
    "transposed": """
        g (float[N,4,5,5] x) => (float[N,2,1,1] y)
        <float[4,4,3,3] w0, float[4,6,2,2] w1, float[6] b1, float[6,2,3,3] w2, float[2,4,1,1] w3>
        {
            [conv0] a = Conv<pads=[1,1,1,1]>(x, w0)
            [relu0] b = Relu(a)
            [up] c = ConvTranspose<strides=[2,2]>(b, w1, b1)
            [relu1] d = Relu(c)
            [grouped] e = ConvTranspose<group=2>(d, w2)
            [conv1] f = Conv(e, w3)
            [pool] y = GlobalAveragePool(f)
        }
        """,
    "dense": """
        g (float[N,5] x) => (float[N,3] y)
        <float[5,6] w0, float[1,6] b0, float[6,6] w1, float[4,6] w2, float[4] b2, float[4,3] w3>
        {
            [first] a = Gemm(x, w0, b0)
            [relu] b = Relu(a)
            [second] c = MatMul(b, w1)
            [third] d = Gemm<transB=1>(c, w2, b2)
            [last] y = Gemm(d, w3)
        }
        """,
    "attention": """
        g (float[5,4] x) => (float[5,2] y) <float[4,4] w0, float[4,2] w1>
        {
            [key] a = MatMul(x, w0)
            [turn] b = Transpose<perm=[1,0]>(x)
            [score] c = MatMul(a, b)
            [value] d = MatMul(c, x)
            [last] y = Gemm(d, w1)
        }
        """,
    "pads": """
        g (float[N,3,6,6] x) => (float[N,2] y)
        <int64[8] pads = {0,0,1,1,0,0,1,1}, float fill = {0.25},
         float[4,3,3,3] w0, float[4] b0, float[4,4,3,3] w1, float[4,2] w2>
        {
            [pad0] p = Pad(x, pads)
            [conv0] a = Conv(p, w0, b0)
            [relu] b = Relu(a)
            [pad1] q = Pad(b, pads, fill)
            [pad2] r = Pad<mode="reflect">(q, pads)
            [conv1] c = Conv(r, w1)
            [pool] d = GlobalAveragePool(c)
            [flatten] e = Flatten(d)
            [gemm] y = Gemm(e, w2)
        }
        """,
    "signed clip": """
        g (float[N,3,6,6] x) => (float[N,4,1,1] y)
        <float low = {-1.0}, float high = {1.0}, float[4,3,3,3] w0, float[4,4,1,1] w1>
        {
            [conv0] a = Conv(x, w0)
            [clip] b = Clip(a, low, high)
            [conv1] c = Conv(b, w1)
            [pool] y = GlobalAveragePool(c)
        }
        """,
    "low clip": """
        g (float[N,3,6,6] x) => (float[N,4,1,1] y)
        <float low = {-0.5}, float high = {1.0}, float[4,3,3,3] w0, float[4,4,1,1] w1>
        {
            [conv0] a = Conv(x, w0)
            [clip] b = Clip(a, low)
            [conv1] c = Conv(b, w1)
            [pool] y = GlobalAveragePool(c)
        }
        """,
    "high clip": """
        g (float[N,3,6,6] x) => (float[N,4,1,1] y)
        <float low = {-0.5}, float high = {1.0}, float[4,3,3,3] w0, float[4,4,1,1] w1>
        {
            [conv0] a = Conv(x, w0)
            [clip] b = Clip(a, , high)
            [conv1] c = Conv(b, w1)
            [pool] y = GlobalAveragePool(c)
        }
        """,
    "open clip": """
        g (float[N,3,6,6] x) => (float[N,4,1,1] y)
        <float low = {-0.5}, float high = {1.0}, float[4,3,3,3] w0, float[4,4,1,1] w1>
        {
            [conv0] a = Conv(x, w0)
            [clip] b = Clip(a)
            [conv1] c = Conv(b, w1)
            [pool] y = GlobalAveragePool(c)
        }
        """,
    "shared input": """
        g (float[N,4] x) => (float[N,4] r, float[N,3] y) <float[4,4] w0, float[4,4] w1, float[4,3] w2>
        {
            [left] a = Gemm(x, w0)
            [right] b = Gemm(x, w1)
            [add] s = Add(a, b)
            [relu] r = Relu(s)
            [twice] t = Mul(r, r)
            [last] y = Gemm(t, w2)
        }
        """,
}


def build(name: str) -> ir.Model:
    return prepare(parse(OWN[name]) if name in OWN else getattr(models, name)())


def calibrated(name: str, **options: Any) -> tuple[ir.Model, QuantizationPlan, dict[str, NDArray[Any]]]:
    model = build(name)
    feeds = random_feeds(model, batch=16)
    return model, with_scales(place_quantizers(model, TARGET, **options), model, feeds), feeds


ALL = [*OWN, "residual", "depthwise", "branches", "conv_bn_relu"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "options",
    [{}, {"bits": 4}, {"act_bits": 4}, {"act_bits": 3, "edge_bits": 3}, {"act_bits": 2}, {"quantize_outputs": True}],
    ids=str,
)
def test_the_runtime_computes_what_numpy_simulates(name: str, options: dict[str, Any]) -> None:
    model, plan, feeds = calibrated(name, **options)
    expected = simulate(model, plan, feeds)
    quantized = inserted(model, plan)
    for optimize in ("none", "all"):
        got = execute(quantized, feeds, optimize=optimize)
        for output in expected:
            assert sqnr(expected[output], got[output]) > EQUAL, (output, optimize)


@pytest.mark.parametrize("name", ALL)
def test_eight_bits_stay_near_the_float_outputs(name: str) -> None:
    model, plan, feeds = calibrated(name)
    reference, got = execute(model, feeds), execute(inserted(model, plan), feeds)
    for output in reference:
        assert sqnr(reference[output], got[output]) > 28.0  # dB


def broken_scale(plan: QuantizationPlan) -> QuantizationPlan:
    group, scale = next(iter(plan.activation_scales.items()))
    return plan.with_scales(activations={group: replace(scale, scale=scale.scale * np.float32(1.02))})


def broken_zero_point(plan: QuantizationPlan) -> QuantizationPlan:
    group, scale = next(iter(plan.activation_scales.items()))
    return plan.with_scales(activations={group: replace(scale, zero_point=scale.zero_point + 1)})


def broken_weight(plan: QuantizationPlan) -> QuantizationPlan:
    name, scale = next(iter(plan.weight_scales.items()))
    return plan.with_scales(weights={name: replace(scale, scale=scale.scale[::-1].copy())})


@pytest.mark.parametrize("breaking", [broken_scale, broken_zero_point, broken_weight])
def test_the_comparison_notices_a_plan_that_is_slightly_wrong(
    breaking: Callable[[QuantizationPlan], QuantizationPlan],
) -> None:
    model, plan, feeds = calibrated("residual")
    expected = simulate(model, plan, feeds)["logits"]
    got = execute(inserted(model, breaking(plan)), feeds)["logits"]
    assert sqnr(expected, got) < EQUAL


@pytest.mark.parametrize("name", [*OWN, "residual", "depthwise", "branches"])
def test_a_second_run_changes_nothing(name: str) -> None:
    model, plan, _ = calibrated(name, act_bits=4, added_bits=4, quantize_outputs=True)
    assert InsertQdq(plan)(model).modified is True
    before = onnx.printer.to_text(ir.to_proto(model))
    assert InsertQdq(plan)(model).modified is False
    assert onnx.printer.to_text(ir.to_proto(model)) == before


def test_golden_graph() -> None:
    model = prepare(
        parse(
            """
            g (float[N,2] x) => (float[N,2] y) <float[2,2] w0, float[2] b0, float[2,2] w1, float[2] b1>
            { [first] a = Gemm(x, w0, b0) [relu] r = Relu(a) [second] y = Gemm(r, w1, b1) }
            """
        )
    )
    plan = with_scales(place_quantizers(model, TARGET), model, random_feeds(model))
    text = onnx.printer.to_text(ir.to_proto(inserted(model, plan)))
    body = (
        text.split("{\n")[-1]
        .replace("DequantizeLinear", "DQ")
        .replace("QuantizeLinear", "Q")
        .replace("axis: int", "axis")
    )
    assert [line.strip() for line in body.splitlines()[:-1]] == [
        "[x_Q] x_quantized = Q (x, x_scale, x_zero_point)",
        "[x_DQ] x_dequantized = DQ (x_quantized, x_scale, x_zero_point)",
        "[w0_DQ] w0_dequantized = DQ <axis = 1> (w0_quantized, w0_scale, w0_zero_point)",
        "[b0_scale_Mul] b0_scale = Mul (x_scale, w0_scale)",
        "[b0_DQ] b0_dequantized = DQ <axis = 0> (b0_quantized, b0_scale)",
        "[first] a = Gemm (x_dequantized, w0_dequantized, b0_dequantized)",
        "[relu] r = Relu (a)",
        "[r_Q] r_quantized = Q (r, r_scale, r_zero_point)",
        "[r_DQ] r_dequantized = DQ (r_quantized, r_scale, r_zero_point)",
        "[w1_DQ] w1_dequantized = DQ <axis = 1> (w1_quantized, w1_scale, w1_zero_point)",
        "[b1_scale_Mul] b1_scale = Mul (r_scale, w1_scale)",
        "[b1_DQ] b1_dequantized = DQ <axis = 0> (b1_quantized, b1_scale)",
        "[second] y = Gemm (r_dequantized, w1_dequantized, b1_dequantized)",
    ]


def test_the_float_model_is_left_as_it_was() -> None:
    model, plan, feeds = calibrated("pads", act_bits=4, added_bits=4, quantize_outputs=True)
    before = onnx.printer.to_text(ir.to_proto(model))
    inserted(model, plan)
    assert onnx.printer.to_text(ir.to_proto(model)) == before
    execute(model, feeds)


def test_values_of_one_group_read_the_same_scale() -> None:
    model, plan, _ = calibrated("branches")
    quantized = inserted(model, plan)
    read = {node.name: [value.name for value in node.inputs[1:] if value] for node in quantized.graph}
    assert read["j_QuantizeLinear"] == read["p_QuantizeLinear"] == read["p_DequantizeLinear"]
    assert read["r0_QuantizeLinear"] != read["r1_QuantizeLinear"]
    kept = {name for name in quantized.graph.initializers if name.endswith("_scale")}
    assert kept & {f"{site.value}_scale" for site in plan.activations} == {
        f"{name}_scale" for name in plan.activation_scales
    }


def test_a_bias_has_the_scale_of_data_times_weight() -> None:
    model, plan, feeds = calibrated("residual", bits=4)
    quantized = inserted(model, plan)
    found = every_value(quantized, feeds)
    groups = {site.value: site.group for site in plan.activations}
    for site in plan.weights:
        step = plan.activation_scales[groups[site.data_input]].scale * plan.weight_scales[site.initializer].scale
        np.testing.assert_array_equal(found[f"{site.bias}_scale"], step)
        codes = quantized.graph.initializers[f"{site.bias}_quantized"].const_value
        assert codes is not None and codes.dtype == ir.DataType.INT32
        np.testing.assert_array_equal(found[f"{site.bias}_dequantized"], codes.numpy().astype(np.float32) * step)
        assert quantized.graph.initializers[f"{site.initializer}_quantized"].dtype == ir.DataType.INT8


def test_a_bias_follows_when_scales_are_learned() -> None:
    model, plan, feeds = calibrated("residual")
    quantized = inserted(model, plan)
    before = every_value(quantized, feeds)["b3_scale"]
    scale = quantized.graph.initializers["f_scale"]
    assert scale.const_value is not None
    scale.const_value = ir.tensor(np.float32(3.0) * scale.const_value.numpy(), name=scale.name)
    np.testing.assert_allclose(every_value(quantized, feeds)["b3_scale"], 3.0 * before, rtol=1e-6)


def test_graph_outputs_stay_float_unless_asked_for() -> None:
    model, plan, _ = calibrated("residual")
    quantized = inserted(model, plan)
    producer = quantized.graph.outputs[0].producer()
    assert producer is not None and producer.op_type == "Gemm"

    model, plan, feeds = calibrated("residual", quantize_outputs=True)
    quantized = inserted(model, plan)
    producer = quantized.graph.outputs[0].producer()
    assert producer is not None and producer.op_type == "DequantizeLinear"
    assert quantized.graph.outputs[0].name == "logits"
    scale = plan.activation_scales["logits"]
    codes = execute(quantized, feeds)["logits"] / scale.scale
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)


def test_an_output_that_is_read_inside_keeps_its_float_value() -> None:
    model, plan, feeds = calibrated("shared input")
    quantized = inserted(model, plan)
    producer = quantized.graph.outputs[0].producer()
    assert producer is not None and producer.op_type == "Relu"
    assert next(node for node in quantized.graph if node.name == "twice").inputs[0] is not producer.outputs[0]
    assert len(np.unique(execute(quantized, feeds, optimize="none")["r"])) > 8


@pytest.mark.parametrize("name", ["residual", "depthwise", "branches", "pads", "signed clip"])
@pytest.mark.parametrize("act_bits", [4, 3, 2])
def test_narrow_activations_use_no_more_codes_than_they_have(name: str, act_bits: int) -> None:
    model, plan, feeds = calibrated(name, act_bits=act_bits, edge_bits=act_bits, added_bits=act_bits)
    found = every_value(inserted(model, plan), feeds)
    assert act_bits in {site.number_format.bits for site in plan.activations}
    for site in plan.activations:
        if site.moved_from is None:
            codes, bits = found[f"{site.value}_quantized"], site.number_format.bits
            assert codes.dtype == np.uint8
            assert codes.max() < 1 << bits
            assert codes.max() >= (1 << act_bits) - 2  # min-max scales reach the end


def test_a_float_clip_leaves_where_the_narrow_grid_does_its_work(tmp_path: Path) -> None:
    model, plan, feeds = calibrated("depthwise", act_bits=4, edge_bits=4, added_bits=4)
    quantized = inserted(model, plan)
    assert not any(node.name.startswith("clip") for node in quantized.graph)
    assert not {"low", "high"} & quantized.graph.initializers.keys()
    assert "QLinearConv" in optimized_operators(quantized, tmp_path)

    wide = Scale(scale=np.asarray(1.0, np.float32), zero_point=np.asarray(0, np.int32))  # 6 is code 6 of 15
    plan = plan.with_scales(activations={"r0": wide, "r1": wide, "r2": wide})
    kept = inserted(model, plan)
    assert sum(node.name.startswith("clip") for node in kept.graph) == 3
    large = {"x": 20.0 * feeds["x"]}
    assert sqnr(simulate(model, plan, large)["logits"], execute(kept, large)["logits"]) > EQUAL


def test_a_clip_of_both_signs_is_fused(tmp_path: Path) -> None:
    model, plan, _ = calibrated("signed clip")
    scale = Scale(scale=np.asarray(2 / 255 - 1e-9, np.float32), zero_point=np.asarray(128, np.int32))
    operators = optimized_operators(inserted(model, plan.with_scales(activations={"b": scale})), tmp_path)
    assert operators.count("QLinearConv") == 2 and "Clip" not in operators


@pytest.mark.parametrize("act_bits", [8, 4])
@pytest.mark.parametrize("name", ["low clip", "high clip", "open clip"])
def test_a_clip_without_one_of_its_limits_is_fused(name: str, act_bits: int, tmp_path: Path) -> None:
    model, plan, feeds = calibrated(name, act_bits=act_bits, edge_bits=act_bits, added_bits=act_bits)
    quantized = inserted(model, plan)
    operators = optimized_operators(quantized, tmp_path)
    assert operators.count("QLinearConv") == 2 and "clip" not in {refusal.where for refusal in plan.refusals}
    assert sqnr(simulate(model, plan, feeds)["y"], execute(quantized, feeds)["y"]) > EQUAL


def test_pad_moves_codes_without_a_change(tmp_path: Path) -> None:
    model, plan, feeds = calibrated("pads")
    quantized = inserted(model, plan)
    found = every_value(quantized, feeds)
    width = ((0, 0), (0, 0), (1, 1), (1, 1))
    groups = {site.value: plan.activation_scales[site.group] for site in plan.activations}
    np.testing.assert_array_equal(
        found["p"], np.pad(found["x_quantized"], width, constant_values=groups["x"].zero_point)
    )
    quarter = np.rint(0.25 / groups["b"].scale) + groups["b"].zero_point
    np.testing.assert_array_equal(found["q"], np.pad(found["b_quantized"], width, constant_values=quarter))
    np.testing.assert_array_equal(found["r"], np.pad(found["q"], width, mode="reflect"))
    operators = optimized_operators(quantized, tmp_path)
    assert operators.count("QLinearConv") == 2 and operators.count("Pad") == 3
    read = {value.name for node in quantized.graph for value in node.inputs if value}
    assert all(node.outputs[0].name in read for node in quantized.graph if node.op_type == "DequantizeLinear")


def test_minus_infinity_becomes_the_lowest_code() -> None:
    text = """
        g (float[N,2,4,4] x) => (float[N,2] y)
        <int64[8] pads = {0,0,1,1,0,0,1,1}, float fill, float[2,2,1,1] w, float[2,2] w1>
        {
            [conv] a = Conv(x, w)
            [relu] b = Relu(a)
            [pad] p = Pad(b, pads, fill)
            [max] m = MaxPool<kernel_shape=[3,3], strides=[2,2]>(p)
            [pool] d = GlobalAveragePool(m)
            [flatten] e = Flatten(d)
            [gemm] y = Gemm(e, w1)
        }
        """
    zero = prepare(parse(text, weights={"fill": np.zeros(())}))
    feeds = random_feeds(zero)
    plan = with_scales(place_quantizers(zero, TARGET), zero, feeds)
    model = prepare(parse(text, weights={"fill": np.full((), -np.inf)}))
    # behind a Relu, 0 and minus infinity are the same to a maximum
    np.testing.assert_array_equal(execute(inserted(model, plan), feeds)["y"], execute(inserted(zero, plan), feeds)["y"])


def test_float_constants_go_unless_others_read_them() -> None:
    model = prepare(
        parse(
            """
            g (float[N,2] x) => (float[N,2] y, float[2] z) <float[2,2] w, float[2] b, float[2,2] w1>
            {
                [first] a = Gemm(x, w, b)
                [relu] r = Relu(a)
                [second] y = Gemm(r, w1)
                [other] z = Erf(b)
            }
            """
        )
    )
    plan = with_scales(place_quantizers(model, TARGET), model, random_feeds(model))
    quantized = inserted(model, plan)
    floats = {name for name, value in quantized.graph.initializers.items() if not name.endswith(("_scale", "_point"))}
    # ShareWeights gave the layer a copy of the bias that the Erf reads
    assert floats == {"b", "w_quantized", "first.bias_quantized", "w1_quantized", "second_bias_quantized"}


def test_names_that_the_model_uses_already_are_not_taken_over() -> None:
    model = prepare(
        parse(
            """
            g (float[N,2] x) => (float[N,2] y) <float x_scale = {3.0}, float[2,2] w, float[2] b, float[2,2] w1>
            {
                [scale] x_quantized = Mul(x, x_scale)
                [first] r = Gemm(x, w, b)
                [add] r_quantized = Add(r, x_quantized)
                [second] y = Gemm(r_quantized, w1)
            }
            """
        )
    )
    feeds = random_feeds(model)
    plan = with_scales(place_quantizers(model, TARGET), model, feeds)
    quantized = inserted(model, plan)
    assert sqnr(simulate(model, plan, feeds)["y"], execute(quantized, feeds)["y"]) > EQUAL
    assert InsertQdq(plan)(quantized).modified is False


def test_a_name_of_an_input_or_output_is_refused() -> None:
    model = prepare(
        parse(
            "g (float[N,2] x) => (float[N,2] x_quantized) <float[2,2] w> { [first] x_quantized = Gemm(x, w) }",
        )
    )
    plan = with_scales(place_quantizers(model, TARGET), model, random_feeds(model))
    with pytest.raises(PassError, match=r"requires the name 'x_quantized'.*FreeNames"):
        InsertQdq(plan)(model)


def test_scales_must_be_known() -> None:
    model = build("residual")
    with pytest.raises(PreconditionError, match=r"requires a scale for every site.*none for \['f', 'n2'"):
        InsertQdq(place_quantizers(model, TARGET))(model)


@pytest.mark.parametrize("make", [unrolled, siamese])
def test_a_weight_that_layers_share_is_stored_once_and_their_kernels_are_fused(
    make: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    model = prepare(make())
    ShareWeights()(model)
    feeds = random_feeds(model)
    plan = with_scales(place_quantizers(model, TARGET), model, feeds)
    sites = plan.sites_by_weight()
    assert len(sites) < len(plan.weights)
    quantized = inserted(model, plan)
    stored = [name for name, value in quantized.graph.initializers.items() if value.dtype == ir.DataType.INT8]
    assert {name for name in stored if name.endswith("_quantized")} == {f"{name}_quantized" for name in sites}
    assert sqnr(simulate(model, plan, feeds)["y"], execute(quantized, feeds)["y"]) > EQUAL
    operators = optimized_operators(quantized, tmp_path)
    fused = operators.count("QLinearConv") + operators.count("QGemm")
    unfused = {refusal.where for refusal in plan.refusals} & {site.node for site in plan.weights}
    assert fused == len(plan.weights) - len(unfused) and not {"Div", "Round", "Cast"} & set(operators)
    assert InsertQdq(plan)(quantized).modified is False


def test_layers_that_share_no_weight_must_own_their_biases() -> None:
    model = ir.from_proto(
        parse(
            """
            g (float[N,2] x) => (float[N,2] y) <float[2,2] w, float[2,2] w1, float[2] b>
            { [first] a = Gemm(x, w, b) [second] y = Gemm(a, w1, b) }
            """
        )
    )
    plan = with_scales(place_quantizers(model, TARGET), model, random_feeds(model))
    with pytest.raises(PreconditionError, match=r"share \['b'\].*ShareWeights"):
        InsertQdq(plan)(model)


def test_an_empty_plan_changes_nothing() -> None:
    model = build("residual")
    assert InsertQdq(QuantizationPlan(activations=(), weights=(), refusals=()))(model).modified is False


FORMATS = st.builds(
    lambda bits, signed, narrow: NumberFormat(bits=bits, signed=signed, symmetric=signed, narrow=narrow and signed),
    st.sampled_from([2, 3, 4, 8, 16]),
    st.booleans(),
    st.booleans(),
)
NUMBERS = st.floats(-10000.0, 10000.0, width=32)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5), elements=NUMBERS)


@st.composite
def grids(draw: st.DrawFn) -> tuple[NumberFormat, Scale]:
    number_format = draw(FORMATS)
    step = draw(st.floats(2.0**-10, 100.0, width=32))
    zero = 0 if number_format.symmetric else draw(st.integers(number_format.qmin, number_format.qmax))
    return number_format, Scale(scale=np.asarray(step, np.float32), zero_point=np.asarray(zero, np.int32))


@settings(deadline=None)
@given(grids(), ARRAYS)
def test_codes_lie_on_the_grid_and_round_to_the_nearest(grid: tuple[NumberFormat, Scale], array: NDArray[Any]) -> None:
    number_format, scale = grid
    codes = quantize_array(array, scale, number_format)
    assert codes.dtype == np.int32 and codes.shape == array.shape
    assert codes.min() >= number_format.qmin and codes.max() <= number_format.qmax
    real = dequantize_array(codes, scale)
    assert real.dtype == np.float32
    low, high = dequantize_array(np.array([number_format.qmin, number_format.qmax]), scale).astype(np.float64)
    inside = (array >= low) & (array <= high)
    half = 0.5 * float(scale.scale)
    slack = 1e-6 * np.abs(array.astype(np.float64)) + 1e-9  # of float32
    assert np.all(np.abs(real.astype(np.float64) - array)[inside] <= (half + slack)[inside])
    assert np.all(np.isin(codes[~inside], (number_format.qmin, number_format.qmax)))


@settings(deadline=None)
@given(grids())
def test_zero_is_exact_and_codes_survive_the_round_trip(grid: tuple[NumberFormat, Scale]) -> None:
    number_format, scale = grid
    zero = quantize_array(np.zeros((), np.float32), scale, number_format)
    assert dequantize_array(zero, scale) == 0.0
    codes = np.unique(np.linspace(number_format.qmin, number_format.qmax, 50).astype(np.int32))
    np.testing.assert_array_equal(quantize_array(dequantize_array(codes, scale), scale, number_format), codes)


@settings(deadline=None)
@given(grids(), NUMBERS, NUMBERS)
def test_codes_keep_the_order(grid: tuple[NumberFormat, Scale], one: float, other: float) -> None:
    number_format, scale = grid
    codes = quantize_array(np.sort(np.array([one, other], np.float32)), scale, number_format)
    assert codes[0] <= codes[1]


@settings(deadline=None)
@given(FORMATS, hnp.arrays(np.float32, st.just((3, 4, 2)), elements=NUMBERS), st.integers(0, 2), st.data())
def test_channels_are_a_loop_of_tensors(
    number_format: NumberFormat, array: NDArray[Any], axis: int, data: st.DataObject
) -> None:
    count = array.shape[axis]
    steps = np.array(
        data.draw(st.lists(st.floats(2.0**-10, 100.0, width=32), min_size=count, max_size=count)), np.float32
    )
    zeros = np.zeros(count, np.int32) if number_format.symmetric else np.arange(count, dtype=np.int32)
    together = Scale(scale=steps, zero_point=zeros)
    codes = quantize_array(array, together, number_format, axis)
    real = dequantize_array(codes, together, axis)
    for channel in range(count):
        alone = Scale(scale=steps[channel], zero_point=zeros[channel])
        expected = quantize_array(array.take(channel, axis), alone, number_format)
        np.testing.assert_array_equal(codes.take(channel, axis), expected)
        np.testing.assert_array_equal(real.take(channel, axis), dequantize_array(expected, alone))


@settings(deadline=None, max_examples=30)
@given(grids(), ARRAYS)
def test_the_runtime_rounds_alike(grid: tuple[NumberFormat, Scale], array: NDArray[Any]) -> None:
    number_format, scale = grid
    number_format = replace(number_format, bits=8, narrow=False)
    scale = replace(scale, zero_point=np.clip(scale.zero_point, number_format.qmin, number_format.qmax))
    kind = "int8" if number_format.signed else "uint8"
    model = parse(
        f"g (float[N] x) => ({kind}[N] q, float[N] y) <float s, {kind} z> "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        weights={"s": scale.scale, "z": scale.zero_point},
    )
    got = execute(model, {"x": array.reshape(-1)})
    codes = quantize_array(array.reshape(-1), scale, number_format)
    # the runtime divides in float32, which may tip a number that lies halfway
    assert np.all(np.abs(got["q"].astype(np.int32) - codes) <= 1)
    tipped = got["q"] != codes
    fraction = np.abs(array.reshape(-1).astype(np.float64) / scale.scale) % 1.0
    assert np.all(np.abs(fraction - 0.5)[tipped] < 1e-2)
    np.testing.assert_array_equal(got["y"][~tipped], dequantize_array(codes, scale)[~tipped])
