"""Every rule of a target can be broken, and then nothing is written."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from backends.target import Blockwise
from passes.checks import IllegalGraphError
from passes.emit.check_target import check_target, target_violations
from passes.emit.emit import emit
from passes.quantize.insert_qdq import InsertQdq
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import inserted, prepare, random_feeds, with_scales

CPU, TENSORRT, QNN = (load_target(name) for name in ("ort_cpu", "tensorrt", "qnn_htp"))


def planned(target, make=models.residual, **widths):
    model = prepare(make())
    return model, with_scales(place_quantizers(model, target, **widths), model, random_feeds(model))


def quantized(target, make=models.residual, **widths):
    """A graph as it is just before ``emit`` has checked it."""
    model, plan = planned(target, make, **widths)
    made = inserted(model, plan)
    emit(made, plan, target)
    return made


def reasons(model, target):
    return "; ".join(item.reason for item in target_violations(model, target))


def node(model, op_type):
    return next(one for one in model.graph if one.op_type == op_type)


def set_array(value, array):
    value.const_value = ir.tensor(array, name=value.name)
    value.type = ir.TensorType(value.const_value.dtype)


def old_opset(model):
    model.graph.opset_imports[""] = 20


def unknown_opset(model):
    model.graph.opset_imports[""] = 28


def signed_values(model):
    zero = node(model, "QuantizeLinear").inputs[2]
    set_array(zero, zero.const_value.numpy().astype(np.int8))


def values_per_channel(model):
    scale = node(model, "QuantizeLinear").inputs[1]
    set_array(scale, np.full(3, scale.const_value.numpy(), np.float32))


def weight_dequantizer(model, position=0):
    layers = [one for one in model.graph if one.op_type == "Conv"]
    return layers[position].inputs[1].producer()


def wide_codes(model):
    codes = weight_dequantizer(model).inputs[0]
    set_array(codes, np.full(codes.const_value.shape.numpy(), -128, np.int8))


def shifted_weights(model):
    zero = weight_dequantizer(model).inputs[2]
    set_array(zero, np.ones(zero.const_value.shape.numpy(), np.int8))


def float_bias(model):
    layer = node(model, "Conv")
    size = layer.inputs[0].producer() is not None and 8
    bias = ir.Value(name="float_bias", const_value=ir.tensor(np.zeros(size, np.float32), name="float_bias"))
    model.graph.register_initializer(bias)
    layer.replace_input_with(2, bias)


def another_scale_behind(model):
    flatten = node(model, "Flatten")
    behind = next(use.node for use in flatten.outputs[0].uses())
    scale = ir.Value(name="other", const_value=ir.tensor(np.asarray(0.5, np.float32), name="other"))
    model.graph.register_initializer(scale)
    behind.replace_input_with(1, scale)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (old_opset, "opset 20, and ort_cpu requires 21 to 27"),
        (unknown_opset, "opset 28, and ort_cpu requires 21 to 27"),
        (signed_values, "its codes are int8, and ort_cpu takes uint8"),
        (values_per_channel, "one scale, not one for each channel"),
        (wide_codes, "reach from -128 to -128, and ort_cpu takes -127 to 127"),
        (shifted_weights, "zero points of its weight must be 0"),
        (float_bias, "its bias is float, and ort_cpu requires int32"),
        (another_scale_behind, "in front of it and behind it differ"),
    ],
)
def test_every_rule_of_the_processor_can_be_broken(spoil, reason):
    model = quantized(CPU)
    assert reasons(model, CPU) == ""
    spoil(model)
    assert reason in reasons(model, CPU)
    with pytest.raises(IllegalGraphError, match="EMITTED"):
        check_target(model, CPU)


def zero_point_of_values(model):
    zero = node(model, "QuantizeLinear").inputs[2]
    set_array(zero, np.asarray(3, np.int8))


@pytest.mark.parametrize(
    ("made_for", "changed", "held_to", "reason"),
    [
        (CPU, None, TENSORRT, "its codes are uint8, and tensorrt takes int8"),
        (CPU, None, replace(CPU, bias="float"), "its bias is quantized, and ort_cpu requires a float bias"),
        (CPU, None, replace(CPU, weight_only=True), "activations stay float on ort_cpu"),
        (CPU, None, load_target("ort_cpu_avx2"), "would saturate, and ort_cpu_avx2 requires uint8"),
        (CPU, None, replace(CPU, weight=CPU.weight.with_bits(7)), "and ort_cpu takes -64 to 63"),
        (CPU, None, QNN, "its weight has 5 scales, and qnn_htp takes one"),
        (TENSORRT, zero_point_of_values, TENSORRT, "its zero point is 3, and tensorrt requires 0"),
        (TENSORRT, None, CPU, "its bias is float, and ort_cpu requires int32"),
        (CPU, None, replace(CPU, operators=CPU.operators[1:]), "has no row for it, but its weight is quantized"),
    ],
)
def test_a_graph_for_one_target_is_held_to_another(made_for, changed, held_to, reason):
    model = quantized(made_for)
    if changed is not None:
        changed(model)
    assert reason in reasons(model, held_to)


@pytest.mark.parametrize(
    ("made_for", "held_to", "reason"),
    [
        (CPU, QNN, "it widens INT4, and qnn_htp requires DequantizeLinear to read it"),
        (QNN, CPU, "it reads INT4 itself, and ort_cpu requires a Cast"),
        (CPU, TENSORRT, "tensorrt reads no packed weights"),
    ],
)
def test_the_form_of_packed_weights_is_held(made_for, held_to, reason):
    assert reason in reasons(quantized(made_for, bits=4, edge_bits=4), held_to)


def test_narrow_values_are_held_to_the_least_width():
    model = quantized(CPU, act_bits=4)
    assert "no values of fewer bits than 8" in reasons(model, replace(CPU, least_activation_bits=8))
    assert reasons(model, CPU) == ""


BLOCKS = replace(CPU, blockwise=Blockwise(block_size=16, least_weights=100, most_rows=1))


def perceptron():
    return models.parse(
        """
        perceptron (float[N,40] x) => (float[N,30] y) <float[30,40] w, float[30] b, float[8,30] w1, float[8] b1>
        { [fc] f = Gemm<transB=1>(x, w, b)
          [relu] y = Relu(f) }
        """
    )


def product(model):
    return node(model, "MatMul")


def without_shelter(model):
    layer = product(model)
    zero = ir.Value(name="zero", const_value=ir.tensor(np.asarray(0, np.uint8), name="zero"))
    scale = ir.Value(name="scale", const_value=ir.tensor(np.asarray(0.1, np.float32), name="scale"))
    for value in (zero, scale):
        model.graph.register_initializer(value)
    quantize = ir.node("QuantizeLinear", [layer.inputs[0], scale, zero], name="extra_q")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero], name="extra_d")
    for one in (quantize, dequantize):
        one.outputs[0].name = f"{one.name}_value"
        model.graph.insert_before(layer, one)
    layer.replace_input_with(0, dequantize.outputs[0])


def an_add_behind(model):
    node(model, "Sub").op_type = "Add"


def a_gemm_of_it(model):
    product(model).op_type = "Gemm"


def many_rows(model):
    model.graph.inputs[0].shape = ir.Shape([5, 40])


def int8_codes(model):
    codes = product(model).inputs[1].producer().inputs[0]
    set_array(codes, np.asarray(codes.const_value.numpy(), np.int8))


@pytest.mark.parametrize(
    ("spoil", "held_to", "reason"),
    [
        (None, CPU, "a scale for each block of 16, and ort_cpu requires blocks of 256"),
        (None, replace(CPU, blockwise=Blockwise()), "and ort_cpu requires one scale for each channel"),
        (None, replace(BLOCKS, blockwise=replace(BLOCKS.blockwise, least_weights=1201)), "1200 weights, and ort_cpu"),
        (without_shelter, BLOCKS, "DequantizeLinear makes its data"),
        (an_add_behind, BLOCKS, "Add stands directly behind it"),
        (a_gemm_of_it, BLOCKS, "for one MatMul, on its right"),
        (many_rows, BLOCKS, "its data have 5 rows"),
        (int8_codes, BLOCKS, "no constant INT4"),
    ],
)
def test_the_form_of_weights_in_blocks_is_held(spoil, held_to, reason):
    model = quantized(BLOCKS, perceptron, bits=4, edge_bits=4)
    assert reasons(model, BLOCKS) == ""
    if spoil is not None:
        spoil(model)
    assert reason in reasons(model, held_to)


def resized():
    return models.parse(
        """
        resized (float[N,3,8,8] x) => (float[N,4,16,16] y)
        <float[4,3,3,3] w, float[4] b, float[4,4,1,1] w1, float[4] b1, float[4] sizes = {1, 1, 2, 2}>
        {
            [first] c = Conv<pads=[1,1,1,1]>(x, w, b)
            [resize] r = Resize<mode="linear">(c, , sizes)
            [second] d = Conv(r, w1, b1)
            [relu] y = Relu(d)
        }
        """
    )


def test_an_operator_in_a_mode_that_stays_float_may_stand_between_different_scales():
    model = quantized(CPU, make=resized)
    resize = node(model, "Resize")
    assert resize.inputs[0].producer().op_type == "DequantizeLinear"
    assert resize.outputs[0].uses()[0].node.op_type == "QuantizeLinear"
    check_target(model, CPU)


def test_emit_writes_nothing_that_is_illegal():
    model, plan = planned(CPU)
    made = model.clone()
    InsertQdq(plan)(made)
    with pytest.raises(IllegalGraphError, match="tensorrt"):
        emit(made, plan, replace(TENSORRT, bias="int32"))
