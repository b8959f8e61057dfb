import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import PreconditionError

from backends.catalog import load_target
from passes.emit.sign_codes import SignCodes
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import execute, inserted, prepare, random_feeds, with_scales


@pytest.mark.parametrize("act_bits", [8, 4])
@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches, models.padded])
def test_the_numbers_stay_what_they_were(make: object, act_bits: int) -> None:
    assert callable(make)
    model = prepare(make())
    plan = place_quantizers(model, load_target("ort_cpu"), act_bits=act_bits)
    quantized = inserted(model, with_scales(plan, model, random_feeds(model)))
    feeds = random_feeds(model)
    before = execute(quantized, feeds, optimize="none")
    assert SignCodes()(quantized).modified
    kinds = {value.dtype for node in quantized.graph for value in node.outputs}
    assert ir.DataType.UINT8 not in kinds and ir.DataType.INT8 in kinds
    for name, array in execute(quantized, feeds, optimize="none").items():
        np.testing.assert_array_equal(array, before[name])
    assert not SignCodes()(quantized).modified


def test_codes_of_the_user_are_refused() -> None:
    text = "net (uint8[N,4] x) => (float[N,4] y) <float s = {0.1}, uint8 z = {3}> { y = DequantizeLinear(x, s, z) }"
    with pytest.raises(PreconditionError, match=r"float inputs and outputs, got uint8 in 'x'"):
        SignCodes()(models.graph(text))


def test_a_quantizer_without_a_zero_point_is_refused() -> None:
    text = """
    net (float[N,4] x) => (float[N,4] y) <float s = {0.1}>
    { [q] c = QuantizeLinear(x, s) y = DequantizeLinear(c, s) }
    """
    with pytest.raises(PreconditionError, match="got none in 'q'"):
        SignCodes()(models.graph(text))
