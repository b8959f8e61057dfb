from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from backends.target import NumberFormat, Target
from passes.emit.emit import emit
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.models import parse
from tests.quantizing import execute, inserted, optimized_operators, prepare, random_feeds, with_scales

TARGET = load_target("ort_cpu")


def planned(model: onnx.ModelProto, *, target: Target = TARGET, **options: int) -> QuantizationPlan:
    return place_quantizers(prepare(model), target, **options)


def values(plan: QuantizationPlan) -> list[str]:
    return [site.value for site in plan.activations]


def groups(plan: QuantizationPlan) -> set[frozenset[str]]:
    members: dict[str, set[str]] = {}
    for site in plan.activations:
        members.setdefault(site.group, set()).add(site.value)
    return {frozenset(names) for names in members.values()}


def reasons(plan: QuantizationPlan) -> dict[str, str]:
    return {refusal.where: refusal.reason for refusal in plan.refusals}


def test_residual_block_is_quantized_around_every_layer_and_on_both_sides_of_its_add() -> None:
    plan = planned(models.residual())
    assert values(plan) == ["x", "r0", "r1", "n2", "r2", "p", "f"]  # no conv output in front of a Relu, no logits
    assert groups(plan) == {frozenset({name}) for name in ("x", "r0", "r1", "n2", "r2")} | {frozenset({"p", "f"})}
    assert [(site.node, site.initializer, site.axis, site.data_input, site.bias) for site in plan.weights] == [
        ("conv0", "w0", 0, "x", "conv0.bias"),
        ("conv1", "w1", 0, "r0", "conv1.bias"),
        ("conv2", "w2", 0, "r1", "conv2.bias"),
        ("gemm", "w3", 0, "f", "b3"),
    ]
    assert plan.refusals == ()
    assert not plan.activation_scales and not plan.weight_scales


def test_formats_are_those_of_the_target() -> None:
    plan = planned(models.residual())
    assert {site.number_format for site in plan.activations} == {TARGET.activation}
    assert {site.number_format for site in plan.weights} == {TARGET.weight}


def test_fewer_bits_for_inner_layers_only() -> None:
    plan = planned(models.residual(), bits=4, act_bits=4)
    assert [site.number_format.bits for site in plan.weights] == [8, 4, 4, 8]
    narrow = plan.weights[1].number_format
    assert (narrow.qmin, narrow.qmax, narrow.symmetric) == (-8, 7, True)
    widths = {site.value: site.number_format.bits for site in plan.activations}
    # r0 comes straight from the first layer; n2 and r2 are added and pooled, by nothing multiplied; p shares the grid
    # of f, which enters the last layer
    assert widths == {"x": 8, "r0": 8, "r1": 4, "n2": 8, "r2": 8, "p": 8, "f": 8}


@pytest.mark.parametrize(("act_bits", "added_bits", "expected"), [(4, 4, 4), (4, None, 8), (2, 3, 3)])
def test_what_is_only_added_has_a_width_of_its_own(act_bits: int, added_bits: int | None, expected: int) -> None:
    plan = planned(models.residual(), act_bits=act_bits, added_bits=added_bits)
    widths = {site.value: site.number_format.bits for site in plan.activations}
    assert (widths["r1"], widths["n2"], widths["r2"]) == (act_bits, expected, expected)


@pytest.mark.parametrize(("edge_bits", "expected"), [(2, [2, 2, 2, 2]), (4, [4, 2, 2, 4]), (8, [8, 2, 2, 8])])
def test_edge_bits_are_the_least_width_of_the_first_and_last_layers(edge_bits: int, expected: list[int]) -> None:
    plan = planned(models.residual(), bits=2, edge_bits=edge_bits)
    assert [site.number_format.bits for site in plan.weights] == expected


@pytest.mark.parametrize(("edge_bits", "expected"), [(4, 4), (6, 6), (None, 8)])
def test_what_a_first_layer_hands_on_is_as_wide_as_the_edges(edge_bits: int | None, expected: int) -> None:
    plan = planned(models.residual(), bits=4, act_bits=4, edge_bits=edge_bits)
    widths = {site.value: site.number_format.bits for site in plan.activations}
    assert (widths["r0"], widths["r1"]) == (expected, 4)
    assert (widths["x"], widths["f"]) == (8, 8)  # what enters the edges


def test_edge_bits_never_narrow_a_layer() -> None:
    plan = planned(models.residual(), bits=8, act_bits=8, edge_bits=2)
    assert {site.number_format.bits for site in (*plan.weights, *plan.activations)} == {8}


def test_every_stem_and_every_head_is_an_edge() -> None:
    plan = planned(
        parse(
            """
            g (float[N,4] x, float[N,4] z) => (float[N,2] y0, float[N,2] y1)
            <float[4,4] w0, float[4,4] w1, float[4,4] w2, float[4,2] w3, float[4,2] w4>
            {
                [stem_x] a = Gemm(x, w0)
                [stem_z] b = Gemm(z, w1)
                [join] c = Add(a, b)
                [inner] d = Gemm(c, w2)
                [relu] e = Relu(d)
                [head0] y0 = Gemm(e, w3)
                [head1] y1 = Gemm(e, w4)
            }
            """
        ),
        bits=4,
        act_bits=4,
    )
    assert {site.node: site.number_format.bits for site in plan.weights} == {
        "stem_x": 8,
        "stem_z": 8,
        "inner": 4,
        "head0": 8,
        "head1": 8,
    }
    assert {site.value: site.number_format.bits for site in plan.activations} == {
        "x": 8,
        "z": 8,
        "a": 8,
        "b": 8,
        "c": 8,  # comes from stems alone
        "e": 8,
    }


def test_concat_keeps_a_scale_for_each_input_and_pooling_shares_one() -> None:
    plan = planned(models.branches())
    assert groups(plan) == {
        frozenset({"x"}),
        frozenset({"r0"}),
        frozenset({"r1"}),
        frozenset({"j", "p"}),
        frozenset({"r2", "f"}),
    }


def test_a_chain_of_movers_is_one_group_in_both_directions() -> None:
    plan = planned(
        parse(
            """
            g (float[N,4,6,6] x) => (float[N,2] y)
            <float[4,4,1,1] w0, int64[2] shape = {0, -1}, int64[2] parts = {72, 72}, float[72,2] w1, float[72,2] w2>
            {
                [pool] a = MaxPool<kernel_shape=[1,1]>(x)
                [conv] b = Conv(a, w0)
                [transpose] c = Transpose<perm=[0,2,3,1]>(b)
                [reshape] d = Reshape(c, shape)
                [split] e, f = Split<axis=1>(d, parts)
                [left] h = Gemm(e, w1)
                [right] i = Gemm(f, w2)
                [add] y = Add(h, i)
            }
            """
        )
    )
    assert groups(plan) == {frozenset({"x", "a"}), frozenset("bcdef"), frozenset("h"), frozenset("i")}
    assert reasons(plan).keys() == {"add"}


def test_movers_between_float_operators_stay_float() -> None:
    plan = planned(
        parse(
            """
            g (float[N,4] x) => (float[N,2] y) <float[4,2] w>
            {
                [erf] a = Erf(x)
                [transpose] b = Transpose<perm=[0,1]>(a)
                [tan] c = Tan(b)
                [gemm] y = Gemm(c, w)
            }
            """
        )
    )
    assert values(plan) == ["c"]
    assert "no integer kernel for Erf" in reasons(plan)["erf"]


@pytest.mark.parametrize(
    ("extra", "moved_from"),
    [("", "r"), (", fill", "r"), (", computed", None)],
    ids=["zeros", "constant", "computed fill"],
)
def test_pad_moves_codes_when_its_fill_has_one(extra: str, moved_from: str | None) -> None:
    plan = planned(
        parse(
            f"""
            g (float[N,4,6,6] x) => (float[N,4,1,1] y)
            <int64[8] pads = {{0,0,1,1,0,0,1,1}}, float fill = {{0.5}}, int64[4] all = {{0,1,2,3}},
             float[4,4,1,1] w0, float[4,4,3,3] w1>
            {{
                computed = ReduceMin<keepdims=0>(x, all)
                [conv0] a = Conv(x, w0)
                [relu] r = Relu(a)
                [pad] p = Pad(r, pads{extra})
                [conv1] c = Conv(p, w1)
                [pool] y = GlobalAveragePool(c)
            }}
            """
        )
    )
    (site,) = [site for site in plan.activations if site.value == "p"]
    assert site.moved_from == moved_from
    assert frozenset({"r", "p"}) in groups(plan)


def test_codes_never_become_a_graph_output() -> None:
    model = parse(
        """
        g (float[N,4,6,6] x) => (float[N,4,8,8] p, float[N,4,1,1] y)
        <int64[8] pads = {0,0,1,1,0,0,1,1}, float[4,4,3,3] w1>
        {
            [pad] p = Pad(x, pads)
            [conv1] c = Conv(p, w1)
            [pool] y = GlobalAveragePool(c)
        }
        """
    )
    for exposed in (False, True):
        plan = planned(model, quantize_outputs=exposed)
        assert {site.value: site.moved_from for site in plan.activations}["p"] is None


def test_indices_of_a_pool_are_no_activation() -> None:
    plan = planned(
        parse(
            """
            g (float[N,4,8,8] x) => (float[N,4] y, int64[N,4,4,4] where) <float[64,4] w>
            {
                [pool] p, where = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)
                [flatten] f = Flatten(p)
                [gemm] y = Gemm(f, w)
            }
            """
        ),
        quantize_outputs=True,
    )
    assert groups(plan) == {frozenset({"x", "p", "f"}), frozenset({"y"})}


def test_an_activation_is_swallowed_only_when_it_alone_reads() -> None:
    plan = planned(
        parse(
            """
            g (float[N,4] x) => (float[N,4] y) <float[4,4] w0, float[4,4] w1>
            {
                [first] a = Gemm(x, w0)
                [relu] r = Relu(a)
                [add] s = Add(a, r)
                [second] y = Gemm(s, w1)
            }
            """
        )
    )
    assert values(plan) == ["x", "a", "r", "s"]


def test_a_layer_read_past_its_activation_is_quantized_in_front_of_it() -> None:
    plan = planned(
        parse(
            """
            g (float[N,4] x) => (float[N,4] y, float[N,4] z) <float[4,4] w0, float[4,4] w1>
            {
                [first] a = Gemm(x, w0)
                [relu] r = Relu(a)
                [other] z = Erf(a)
                [second] y = Gemm(r, w1)
            }
            """
        )
    )
    assert values(plan) == ["x", "a", "r"]


def test_without_a_rule_for_relu_the_layer_in_front_of_it_is_quantized_itself() -> None:
    bare = replace(TARGET, operators=tuple(rule for rule in TARGET.operators if rule.op_type != "Relu"))
    plan = planned(models.residual(), target=bare)
    assert "n0" in values(plan) and "a" in values(plan)
    assert reasons(plan)["relu0"] == "the target has no integer kernel for Relu"


def test_formats_of_another_target_are_narrowed_alike() -> None:
    signed = replace(TARGET, activation=NumberFormat(bits=16, signed=True, symmetric=True))
    plan = planned(models.residual(), target=signed, act_bits=8, edge_bits=8)
    assert {site.number_format for site in plan.activations} == {NumberFormat(bits=8, signed=True, symmetric=True)}
    wide = planned(models.residual(), target=signed, act_bits=16)
    assert {site.number_format.bits for site in wide.activations} == {16}


GEMM = "g (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4,4] w1, float[4] k> {{ [gemm] t = Gemm(x, w) {} }}"
TAILS = {
    "softmax": "y = Softmax(t)",
    "log softmax": "y = LogSoftmax(t)",
    "sigmoid": "y = Sigmoid(t)",
    "relu": "y = Relu(t)",
    "moved": "u = Transpose<perm=[0,1]>(t) y = Identity(u)",
    "scaled": "u = Mul(t, k) v = Sub(k, u) y = Exp(v)",
    "squashed twice": "u = Relu(t) y = Tanh(u)",
}


@pytest.mark.parametrize("tail", TAILS)
def test_what_leads_to_an_output_stays_float(tail: str) -> None:
    assert values(planned(parse(GEMM.format(TAILS[tail])))) == ["x"]
    assert "t" in values(planned(parse(GEMM.format("[next] y = Gemm(t, w1)"))))


def test_the_classes_of_an_argmax_are_compared_in_float() -> None:
    model = parse(
        "g (float[N,4] x) => (int64[N,1] y) <float[4,4] w> { [gemm] t = Gemm(x, w) [best] y = ArgMax<axis=1>(t) }"
    )
    assert values(planned(model)) == ["x"]


def test_outputs_are_quantized_when_asked_for() -> None:
    plan = planned(models.residual(), quantize_outputs=True)
    assert values(plan)[-1] == "logits" and plan.quantize_outputs
    assert not planned(models.residual()).quantize_outputs
    assert planned(models.conv_bn_relu()).refusals[0].where == "conv"
    assert planned(models.conv_bn_relu(), quantize_outputs=True).refusals == ()


def test_a_value_that_is_output_and_read_inside_is_a_site() -> None:
    plan = planned(
        parse(
            """
            g (float[N,4] x) => (float[N,4] r, float[N,4] y) <float[4,4] w0, float[4,4] w1>
            {
                [first] a = Gemm(x, w0)
                [relu] r = Relu(a)
                [second] y = Gemm(r, w1)
            }
            """
        )
    )
    assert values(plan) == ["x", "r"]


REFUSALS = {
    "computed weight": (
        "g (float[N,2,6] x, float[2,2,3] k) => (float[N,2,2] y) <float[2,2,3] w> "
        "{ [node] t = Conv(x, k) [next] y = Conv(t, w) }",
        "weight is computed",
    ),
    "computed bias": (
        "g (float[N,2] x, float[2] b) => (float[N,2] y) <float[2,2] w> { [node] y = Gemm(x, w, b) }",
        "bias is computed",
    ),
    "bias by row": (
        "g (float[2,3] x) => (float[2,3] y) <float[3,3] w, float[2,3] b> { [node] y = Gemm(x, w, b) }",
        "differs from row to row",
    ),
    "alpha": (
        "g (float[N,3] x) => (float[N,3] y) <float[3,3] w> { [node] y = Gemm<alpha=0.5>(x, w) }",
        "alpha is not the default",
    ),
    "transA": (
        "g (float[3,3] x) => (float[3,3] y) <float[3,3] w> { [node] y = Gemm<transA=1>(x, w) }",
        "transA is not the default",
    ),
    "batched weight": (
        "g (float[2,N,3] x) => (float[2,N,3] y) <float[2,3,3] w> { [node] y = MatMul(x, w) }",
        "rank 3",
    ),
    "weight on the left": (
        "g (float[3,3] x) => (float[3,3] y) <float[3,3] w> { [node] y = MatMul(w, x) }",
        "operand 0 is a constant",
    ),
    "constant operand": (
        "g (float[N,3] x) => (float[N,3] y) <float[3] k, float[3,3] w> "
        "{ [node] t = Add(x, k) [next] y = MatMul(t, w) }",
        "operand 1 is a constant",
    ),
    "table": (
        "g (int64[N] i) => (float[N,3] y) <float[9,3] table, float[3,3] w> "
        "{ [node] t = Gather(table, i) [next] y = MatMul(t, w) }",
        "operand 0 is a constant",
    ),
    "no kernel": (
        "g (float[N,3] x) => (float[N,3] y) <float[3,3] w> { [node] t = Erf(x) [next] y = MatMul(t, w) }",
        "no integer kernel for Erf",
    ),
    "linear resize": (
        "g (float[N,3,2,2] x) => (float[N,3,1,1] y) <float[3,3,4,4] w, int64[4] sizes = {1,3,4,4}> "
        '{ [node] t = Resize<mode="linear">(x, , , sizes) [next] y = Conv(t, w) }',
        "mode is not nearest",
    ),
    "computed limit": (
        "g (float[N,3] x, float low) => (float[N,3] y) <float[3,3] w, float[3,3] w1> "
        "{ [first] a = MatMul(x, w) [node] t = Clip(a, low) [next] y = MatMul(t, w1) }",
        "limits is computed",
    ),
    "double": (
        "g (double[N,3] x) => (double[N,3] y) <double[3,3] w> { [node] y = MatMul(x, w) }",
        "DOUBLE, and only float32",
    ),
    "output": (
        "g (float[N,2,6] x) => (float[N,2,4] y) <float[2,2,3] w> { [node] y = Conv(x, w) }",
        "straight to a graph output",
    ),
    "no kernel for a layer": (
        "g (float[N,2,6] x) => (float[N,2,7] y) <float[2,2,2] w, float[2,2,1] w1> "
        "{ [node] t = ConvTranspose(x, w) [next] y = Conv(t, w1) }",
        "no integer kernel for ConvTranspose",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_carry_the_reason(name: str) -> None:
    text, fragment = REFUSALS[name]
    plan = planned(parse(text))
    assert fragment in reasons(plan)["node"]
    assert not {"w", "k", "table"} & set(values(plan))


def test_shape_arithmetic_is_no_refusal() -> None:
    plan = planned(
        parse(
            """
            g (float[N,2,3] x) => (float[N,4] y) <int64[1] rest = {-1}, int64[1] zero = {0}, float[6,4] w>
            {
                [shape] s = Shape(x)
                [batch] b = Gather(s, zero)
                [join] t = Concat<axis=0>(b, rest)
                [reshape] f = Reshape(x, t)
                [gemm] y = Gemm(f, w)
            }
            """
        )
    )
    assert plan.refusals == ()
    assert values(plan) == ["x", "f"]


def test_nearest_is_the_default_mode_of_resize() -> None:
    plan = planned(
        parse(
            """
            g (float[N,3,2,2] x) => (float[N,3,1,1] y) <float[3,3,4,4] w, float[4] scales = {1.0,1.0,2.0,2.0}>
            {
                [resize] t = Resize(x, , scales)
                [conv] c = Conv(t, w)
                [pool] y = GlobalAveragePool(c)
            }
            """
        )
    )
    assert frozenset({"x", "t"}) in groups(plan)


def test_matmul_of_two_activations_is_quantized_on_both_sides() -> None:
    plan = planned(
        parse(
            """
            g (float[N,3] x) => (float[N,3] y) <float[3,3] w, float[3,3] w1>
            {
                [key] a = MatMul(x, w)
                [turn] b = Transpose<perm=[1,0]>(x)
                [score] c = MatMul(a, b)
                [value] d = MatMul(c, x)
                [next] y = MatMul(d, w1)
            }
            """
        )
    )
    assert values(plan) == ["x", "a", "b", "c", "d"]
    assert [(site.node, site.axis, site.bias) for site in plan.weights] == [("key", 1, None), ("next", 1, None)]


@pytest.mark.parametrize(("group", "axis"), [(1, 1), (2, None)])
def test_channels_of_a_transposed_convolution(group: int, axis: int | None) -> None:
    layer = f"c = ConvTranspose<group={group}>(x, w) y = Conv(c, w1)"
    text = f"g (float[N,4,6] x) => (float[N,2,7] y) <float[4,{4 // group},2] w, float[2,4,1] w1> {{ {layer} }}"
    plan = planned(parse(text))
    assert plan.weights[0].axis == axis
    assert values(plan) == ["x", "c"]


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_gemm_channels_follow_trans_b(transposed: int, axis: int) -> None:
    layer = f"y = Gemm<transB={transposed}>(x, w)"
    plan = planned(parse(f"g (float[N,3] x) => (float[N,3] y) <float[3,3] w> {{ {layer} }}"))
    assert plan.weights[0].axis == axis


def test_placing_changes_nothing_and_says_the_same_again() -> None:
    model = prepare(models.depthwise())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    first, second = (place_quantizers(model, TARGET, bits=4) for _ in range(2))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert (first.activations, first.weights, first.refusals) == (second.activations, second.weights, second.refusals)


KINDS = {"Conv": "QLinearConv", "Gemm": "QGemm", "Add": "QLinearAdd", "Concat": "QLinearConcat"}


@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("act_bits", [8, 4, 3, 2])
def test_the_runtime_fuses_all_that_the_plan_promises(
    make: Callable[[], onnx.ModelProto], bits: int, act_bits: int, tmp_path: Path
) -> None:
    model = prepare(make())
    plan = place_quantizers(model, TARGET, bits=bits, act_bits=act_bits)
    plan = with_scales(plan, model, random_feeds(model, batch=16))
    operators = Counter(optimized_operators(inserted(model, plan), tmp_path))
    promised = Counter(KINDS[node.op_type] for node in model.graph if node.op_type in KINDS)
    assert {name: operators[name] for name in promised} == dict(promised)
    assert not operators.keys() & {"Conv", "FusedConv", "Gemm", "Add", "Concat", "Relu", "DequantizeLinear"}
    assert operators["QuantizeLinear"] == 1  # of the graph input


def test_a_pool_before_an_output_that_stays_float_keeps_one_scale_all_the_same() -> None:
    text = """
    pyramid (float[N,3,8,8] x) => (float[N,8,8,8] y, float[N,16,8,8] o)
    <float[16,3,3,3] w0, float[16] b0, float[8,16,3,3] w1, float[8] b1, float[4] s = {1, 1, 2, 2}>
    {
        [conv0] a = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [pool] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        [up] u = Resize<mode="nearest">(p, , s)
        [out] o = Resize<mode="nearest">(p, , s)
        [conv1] y = Conv<pads=[1,1,1,1]>(u, w1, b1)
    }
    """
    target = load_target("ort_cpu")
    model = prepare(models.parse(text))
    plan = place_quantizers(model, target)
    groups = {site.value: site.group for site in plan.activations}
    assert groups["a"] == groups["p"] == groups["u"]
    feeds = random_feeds(model)
    quantized = inserted(model, with_scales(plan, model, feeds))
    emit(quantized, plan, target)
    wanted = execute(model, feeds)
    for name, array in execute(quantized, feeds).items():
        assert np.abs(array - wanted[name]).max() < 0.05 * np.abs(wanted[name]).max()
