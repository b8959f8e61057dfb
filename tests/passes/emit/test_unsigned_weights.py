from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from backends.target import Target
from passes.emit.check_target import target_violations
from passes.emit.emit import emit
from passes.emit.unsigned_weights import UnsignedWeights, saturating_codes
from passes.operators import WEIGHTED
from passes.quantize.place_quantizers import place_quantizers
from passes.surgery import add_constant, dequantizer, standard_nodes
from tests import models
from tests.quantizing import execute, inserted, prepare, random_feeds, with_scales

TARGET = load_target("ort_cpu_avx2")
SHAPES = {"w0": (4, 4, 3, 3), "w1": (4, 1, 2, 2)}


def quantized(make: object, bits: int = 8, target: Target = TARGET) -> tuple[ir.Model, ir.Model]:
    """Return a QDQ graph, and the same as it is emitted."""
    assert callable(make)
    model = prepare(make())
    plan = with_scales(place_quantizers(model, target, bits=bits), model, random_feeds(model))
    made = inserted(model, plan)
    written = made.clone()
    emit(written, plan, target)
    return made, written


def types_of_weights(model: ir.Model) -> dict[str, str]:
    found = {}
    for node in standard_nodes(model.graph, *WEIGHTED):
        maker = dequantizer(node, 1)
        if maker is not None and maker.inputs[0] is not None and maker.inputs[0].const_value is not None:
            found[str(node.name)] = maker.inputs[0].const_value.dtype.name
    return found


@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches, models.padded])
def test_the_numbers_stay_what_they_were(make: object) -> None:
    made, written = quantized(make)
    feeds = random_feeds(made)
    before = execute(made, feeds, optimize="none")
    for name, array in execute(written, feeds, optimize="none").items():
        np.testing.assert_array_equal(array, before[name])
    assert target_violations(written, TARGET) == ()
    assert not UnsignedWeights()(written).modified


def test_depthwise_convolutions_keep_int8_and_all_others_do_not() -> None:
    made, written = quantized(models.depthwise)
    depthwise = {
        str(node.name)
        for node in standard_nodes(made.graph, "Conv")
        if (group := node.attributes.get_int("group", 1)) > 1 and node.outputs[0].shape[1] == group
    }
    kinds = types_of_weights(written)
    assert depthwise and {name for name, kind in kinds.items() if kind == "INT8"} == depthwise
    assert set(kinds.values()) == {"INT8", "UINT8"}


def test_codes_that_are_too_small_to_saturate_stay() -> None:
    _, written = quantized(models.residual, bits=7)
    assert "INT8" in types_of_weights(written).values()  # inner layers; the first and the last have 8 bits
    assert all(saturating_codes(node) is None for node in standard_nodes(written.graph, *WEIGHTED))


def test_another_reader_of_the_codes_goes_on_reading_int8() -> None:
    made, _ = quantized(models.residual)
    maker = dequantizer(standard_nodes(made.graph, "Conv")[0], 1)
    assert maker is not None and maker.inputs[0] is not None
    codes = maker.inputs[0]
    cast = ir.node("Cast", [codes], {"to": ir.DataType.FLOAT.value}, name="reader")
    total = ir.node("ReduceSum", [cast.outputs[0]], {"keepdims": 0}, name="total")
    for node, name in ((cast, "read"), (total, "sum")):
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
    total.outputs[0].shape = ir.Shape(())
    made.graph.extend([cast, total])
    made.graph.outputs.append(total.outputs[0])
    feeds = random_feeds(made)
    before = execute(made, feeds, optimize="none")
    assert UnsignedWeights()(made).modified
    assert codes.const_value is not None and codes.const_value.dtype == ir.DataType.INT8
    for name, array in execute(made, feeds, optimize="none").items():
        np.testing.assert_array_equal(array, before[name])


def test_a_file_that_would_saturate_is_refused() -> None:
    _, written = quantized(models.residual, target=replace(TARGET, unsigned_weights=False))
    reasons = " / ".join(refusal.reason for refusal in target_violations(written, TARGET))
    assert "sums of its int8 products would saturate" in reasons


def test_a_zero_point_other_than_the_middle_is_refused() -> None:
    _, written = quantized(models.residual)
    maker = dequantizer(standard_nodes(written.graph, "Conv")[0], 1)
    assert maker is not None and maker.inputs[1] is not None and maker.inputs[1].const_value is not None
    other = np.full(maker.inputs[1].const_value.shape.numpy(), 127, np.uint8)
    maker.replace_input_with(2, add_constant(written.graph, "other", other))
    assert "zero points of its weight must be 128" in " / ".join(
        refusal.reason for refusal in target_violations(written, TARGET)
    )


def test_a_transposed_convolution_runs_in_float_and_keeps_int8() -> None:
    text = """
        grow (float[N,4,6,6] x) => (float[N,1,12,12] y) <float[4,4,3,3] w0, float[4,1,2,2] w1>
        {
            [body] c0 = Conv<pads=[1,1,1,1]>(x, w0)
            [relu] r0 = Relu(c0)
            [grow] t0 = ConvTranspose<strides=[2,2]>(r0, w1)
            [squash] y = Sigmoid(t0)
        }
        """
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    made, written = quantized(lambda: models.parse(text, weights=weights))
    assert types_of_weights(written) == {"body": "UINT8", "grow": "INT8"}
    feeds = random_feeds(made)
    np.testing.assert_allclose(
        execute(written, feeds, optimize="none")["y"], execute(made, feeds, optimize="none")["y"], atol=1e-6
    )
