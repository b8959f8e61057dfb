import numpy as np
import pytest

from backends.catalog import load_target
from passes.emit.emit import emit
from passes.emit.sink_dequantizers import SinkDequantizers
from passes.plan import Scale
from passes.quantize.place_quantizers import place_quantizers
from tests.models import operators, parse
from tests.quantizing import execute, inserted, prepare, random_feeds, with_scales

RECURRENT = """
heard (float[N,2,8,6] x) => (float[N,D,M] y)
<int64[3] rows = {0, 0, -1}, float[4,2,3,3] w, float[1,9,12] wi, float[1,9,3] wr, float[1,18] b>
{
    [conv] c = Conv<pads=[1,1,1,1]>(x, w)
    [pool] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
    [turn] t = Transpose<perm=[2,0,1,3]>(p)
    [flat] f = Reshape(t, rows)
    [gru] g = GRU<hidden_size=3>(f, wi, wr, b)
    [squeeze] y = Squeeze(g, axis)
}
""".replace("int64[3] rows", "int64[1] axis = {1}, int64[3] rows")


@pytest.mark.parametrize("name", ["xnnpack", "ort_arm"])
def test_a_file_of_signed_codes_opens_without_options_of_its_target(name: str) -> None:
    target = load_target(name)
    model = prepare(parse(RECURRENT))
    feeds = random_feeds(model)
    plan = with_scales(place_quantizers(model, target), model, feeds)
    # Codes of at most 7 bits: kernels for AVX2 saturate at sums of two products of 8-bit ones.
    halved = {name: Scale(scale=2 * one.scale, zero_point=one.zero_point) for name, one in plan.weight_scales.items()}
    quantized = inserted(model, plan.with_scales(weights=halved))
    before = execute(quantized, feeds, optimize="none")["y"]
    emit(quantized, place_quantizers(model, target), target)
    for optimize in ("none", "all"):
        np.testing.assert_allclose(execute(quantized, feeds, optimize=optimize)["y"], before, atol=2e-2)
    np.testing.assert_array_equal(execute(quantized, feeds, optimize="none")["y"], before)


def test_codes_go_as_far_as_operators_only_rearrange_them() -> None:
    text = """
    g (float[N,2,3] x) => (float[N,2,3] z, float[N,6] y) <float s = {0.1}, int8 zero = {3}, int64[2] flat = {0, -1}>
    {
        q = QuantizeLinear(x, s, zero) d = DequantizeLinear(q, s, zero)
        t = Transpose<perm=[0,2,1]>(d) y = Reshape(t, flat)
        q1 = QuantizeLinear(x, s, zero) d1 = DequantizeLinear(q1, s, zero) r = Relu(d1) z = Identity(r)
    }
    """
    model = prepare(parse(text))
    feeds = random_feeds(model)
    before = execute(model, feeds, optimize="none")
    assert SinkDequantizers()(model).modified
    assert operators(model) == [
        *("QuantizeLinear", "Transpose", "Reshape", "DequantizeLinear"),
        *("QuantizeLinear", "DequantizeLinear", "Relu", "Identity"),
    ]
    for name, array in execute(model, feeds, optimize="none").items():
        np.testing.assert_array_equal(array, before[name])
    assert not SinkDequantizers()(model).modified


def test_what_is_quantized_again_or_read_twice_stays() -> None:
    text = """
    g (float[N,2,3] x) => (float[N,3,2] y, float[N,2,3] z) <float s = {0.1}, int8 zero = {3}>
    {
        q = QuantizeLinear(x, s, zero) d = DequantizeLinear(q, s, zero)
        t = Transpose<perm=[0,2,1]>(d) q1 = QuantizeLinear(t, s, zero) y = DequantizeLinear(q1, s, zero)
        q2 = QuantizeLinear(x, s, zero) d2 = DequantizeLinear(q2, s, zero)
        t2 = Transpose<perm=[0,2,1]>(d2) u = Tanh(t2) z = Transpose<perm=[0,2,1]>(u) z2 = Tanh(d2)
    }
    """
    assert not SinkDequantizers()(prepare(parse(text))).modified
