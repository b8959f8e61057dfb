import numpy as np
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from passes.emit.float_biases import FloatBiases
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, prepare, random_feeds, with_scales

TARGET = load_target("ort_cpu")


def quantized(make):
    model = prepare(make())
    feeds = random_feeds(model)
    plan = with_scales(place_quantizers(model, TARGET), model, feeds)
    return inserted(model, plan), feeds


@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches])
def test_biases_become_float_and_keep_their_numbers(make):
    model, feeds = quantized(make)
    before = execute(model, feeds, optimize="none")
    assert FloatBiases()(model).modified
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm"):
            assert node.inputs[2].is_initializer() and node.inputs[2].dtype == ir.DataType.FLOAT
    after = execute(model, feeds, optimize="none")
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_nothing_of_the_int32_biases_is_left_and_a_second_run_does_nothing():
    model, _ = quantized(models.residual)
    FloatBiases()(model)
    assert not any(value.dtype == ir.DataType.INT32 for value in model.graph.initializers.values())
    assert not any(node.op_type == "Mul" for node in model.graph)
    assert all(value.uses() for value in model.graph.initializers.values())
    assert not FloatBiases()(model).modified


def test_a_float_model_stays_as_it_is():
    assert not FloatBiases()(prepare(models.residual())).modified
