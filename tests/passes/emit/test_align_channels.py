"""Widening to numbers of channels that kernels are fast at must change no number, and only what it can prove."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from backends.target import Alignment
from passes.emit.align_channels import AlignChannels
from passes.emit.emit import emit
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, optimized_operators, prepare, random_feeds, with_scales

RULE = Alignment(depthwise=16, inputs=4, outputs=16)

MOBILE = """
mobile (float[N,3,12,12] x) => (float[N,5] logits)
<float[24,3,3,3] w0, float[24] b0, float[24,1,3,3] w1, float[24] b1, float[20,24,1,1] w2, float[20] b2,
 float[20,1,3,3] w3, float[20] b3, float[32,20,1,1] w4, float[32] b4, float[5,32] w5, float[5] b5,
 float low = {0.0}, float high = {6.0}>
{
    [first] c0 = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0, b0)
    [clip0] r0 = Clip(c0, low, high)
    [deep] c1 = Conv<pads=[1,1,1,1], group=24>(r0, w1, b1)
    [clip1] r1 = Clip(c1, low, high)
    [point] c2 = Conv(r1, w2, b2)
    [relu2] r2 = Relu(c2)
    [pool] p2 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r2)
    [deeper] c3 = Conv<pads=[1,1,1,1], group=20>(p2, w3, b3)
    [relu3] r3 = Relu(c3)
    [last] c4 = Conv(r3, w4, b4)
    [mean] g = GlobalAveragePool(c4)
    [flat] f = Flatten(g)
    [gemm] logits = Gemm<transB=1>(f, w5, b5)
}
"""
RESIDUAL = """
residual (float[N,4,8,8] x) => (float[N,8,8,8] y)
<float[10,4,3,3] w0, float[10] b0, float[10,10,3,3] w1, float[10] b1, float[8,10,3,3] w2, float[8] b2>
{
    [first] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
    [relu0] r0 = Relu(c0)
    [inner] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
    [add] s = Add(c1, r0)
    [relu1] r1 = Relu(s)
    [last] y = Conv<pads=[1,1,1,1]>(r1, w2, b2)
}
"""


def quantized(text: str, *, bits: int = 8) -> ir.Model:
    model = prepare(models.parse(text))
    plan = place_quantizers(model, load_target("ort_cpu"), bits=bits, edge_bits=bits)
    return inserted(model, with_scales(plan, model, random_feeds(model)))


def node(model: ir.Model, name: str) -> ir.Node:
    return next(one for one in model.graph if one.name == name)


def weight(model: ir.Model, name: str) -> np.ndarray:
    maker = node(model, name).inputs[1].producer()  # type: ignore[union-attr]
    return maker.inputs[0].const_value.numpy()  # type: ignore[union-attr]


@pytest.mark.parametrize("text", [MOBILE, RESIDUAL], ids=["mobile", "residual"])
def test_the_outputs_are_equal_to_the_bit_and_everything_stays_fused(text: str, tmp_path: Path) -> None:
    model = quantized(text)
    feeds = random_feeds(model)
    before, operators = execute(model, feeds), optimized_operators(model, tmp_path)
    assert AlignChannels(RULE)(model).modified
    after, wider = execute(model, feeds), optimized_operators(model, tmp_path)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    assert [one for one in wider if one.startswith("Q")] == [one for one in operators if one.startswith("Q")]
    assert not AlignChannels(RULE)(model).modified


def test_widths_of_a_mobile_network() -> None:
    model = quantized(MOBILE)
    AlignChannels(RULE)(model)
    shapes = {name: weight(model, name).shape for name in ("first", "deep", "point", "deeper", "last")}
    assert shapes == {
        "first": (32, 4, 3, 3),
        "deep": (32, 1, 3, 3),
        "point": (32, 32, 1, 1),
        "deeper": (32, 1, 3, 3),
        "last": (32, 32, 1, 1),
    }
    assert node(model, "deep").attributes.get_int("group") == 32
    assert not weight(model, "first")[24:].any() and not weight(model, "first")[:, 3:].any()
    assert not weight(model, "point")[:, 24:].any()
    pad = next(one for one in model.graph if one.op_type == "Pad")
    assert pad.inputs[0].producer().op_type == "QuantizeLinear"  # type: ignore[union-attr]
    assert pad.inputs[0].dtype == pad.outputs[0].dtype == ir.DataType.UINT8  # type: ignore[union-attr]
    assert [value.shape[1] for value in model.graph.inputs] == [3], "the input is the user's"  # type: ignore[index]


def test_both_branches_of_an_add_are_widened() -> None:
    model = quantized(RESIDUAL)
    AlignChannels(RULE)(model)
    assert weight(model, "first").shape == (16, 4, 3, 3)
    assert weight(model, "inner").shape == (16, 16, 3, 3)
    assert weight(model, "last").shape == (8, 16, 3, 3), "a graph output keeps its channels"


@pytest.mark.parametrize(("count", "wider"), [(8, 8), (11, 16), (14, 16), (16, 16), (17, 20)])
def test_few_output_channels_become_sixteen_where_most_are_there(count: int, wider: int) -> None:
    model = quantized(RESIDUAL.replace("10", str(count)))
    AlignChannels(RULE)(model)
    assert weight(model, "inner").shape == (wider, wider, 3, 3)


CONCAT = ("[mean] g = GlobalAveragePool(c4)", "[cat] k = Concat<axis=1>(r3, c4) [mean] g = GlobalAveragePool(k)")


@pytest.mark.parametrize(
    "changes",
    [
        (CONCAT, ("float[5,32] w5", "float[5,52] w5")),
        (("(float[N,5] logits)", "(float[N,5] logits, float[N,20,3,3] r3)"),),
        (("group=20>(p2, w3", "group=10>(p2, w3"), ("float[20,1,3,3] w3", "float[20,2,3,3] w3")),
    ],
    ids=["concat", "output", "groups"],
)
def test_what_something_else_reads_or_makes_stays(changes: tuple[tuple[str, str], ...]) -> None:
    text = MOBILE
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    model = quantized(text)
    feeds = random_feeds(model)
    wanted = execute(model, feeds)
    AlignChannels(RULE)(model)
    assert weight(model, "deeper").shape[0] == 20
    assert weight(model, "deep").shape[0] == 32, "the rest is widened all the same"
    for name, array in execute(model, feeds).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_values_do_not_grow_beyond_twice_their_size() -> None:
    model = quantized(MOBILE.replace("24", "6"))
    AlignChannels(RULE)(model)
    assert weight(model, "deep").shape[0] == 6
    assert weight(model, "first").shape == (6, 4, 3, 3), "a picture may"


def test_a_target_without_a_rule_changes_nothing() -> None:
    model = quantized(MOBILE)
    before = models.to_proto(model).SerializeToString(deterministic=True)
    assert not AlignChannels(Alignment())(model).modified
    assert models.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_constant_that_others_read_keeps_its_length_for_them() -> None:
    model = quantized(MOBILE)
    deep, deeper = (node(model, name).inputs[1].producer() for name in ("deep", "first"))  # type: ignore[union-attr]
    shared = deep.inputs[2]  # type: ignore[union-attr]
    other = ir.node("DequantizeLinear", [*deeper.inputs[:2], shared], {"axis": 0})  # type: ignore[union-attr]
    other.outputs[0].name = "elsewhere"
    other.outputs[0].dtype, other.outputs[0].shape = ir.DataType.FLOAT, ir.Shape([24, 3, 3, 3])
    model.graph.append(other)
    model.graph.outputs.append(other.outputs[0])
    feeds = random_feeds(model)
    before = execute(model, feeds)
    AlignChannels(RULE)(model)
    for name, array in execute(model, feeds).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_an_emitted_file_keeps_its_rules_at_every_width(bits: int) -> None:
    target = load_target("ort_cpu")
    model = prepare(models.parse(MOBILE))
    plan = with_scales(place_quantizers(model, target, bits=bits, edge_bits=bits), model, random_feeds(model))
    plain = inserted(model, plan)
    written = inserted(model, plan)
    emit(written, plan, target)
    feeds = random_feeds(model)
    wanted = execute(plain, feeds)
    for name, array in execute(written, feeds).items():
        np.testing.assert_array_equal(array, wanted[name])
    assert node(written, "deep").attributes.get_int("group") == 32


def test_names_that_the_model_has_are_not_taken_again() -> None:
    model = quantized(MOBILE.replace("r0 ", "x_wider ").replace("(r0,", "(x_wider,"))
    feeds = random_feeds(model)
    before = execute(model, feeds)
    assert AlignChannels(RULE)(model).modified
    for name, array in execute(model, feeds).items():
        np.testing.assert_array_equal(array, before[name])
