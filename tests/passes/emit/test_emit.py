from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from passes.emit.emit import emit, emitted_bytes, weight_bytes
from passes.quantize.override_widths import Widths, override_widths
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import inserted, prepare, random_feeds, with_scales

TARGET = load_target("ort_cpu")


def large() -> onnx.ModelProto:
    return models.parse(
        """
        large (float[N,16,6,6] x) => (float[N,4,6,6] y)
        <float[64,16,3,3] w0, float[64] b0, float[64,64,3,3] w1, float[64] b1, float[4,64,1,1] w2, float[4] b2>
        {
            [conv0] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
            [relu0] r0 = Relu(c0)
            [conv1] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
            [relu1] r1 = Relu(c1)
            [conv2] y = Conv(r1, w2, b2)
        }
        """
    )


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches, large])
def test_the_size_is_known_before_anything_is_calibrated(make: Callable[[], onnx.ModelProto], bits: int) -> None:
    model = prepare(make())
    plan = place_quantizers(model, TARGET, bits=bits, edge_bits=bits)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    estimate = emitted_bytes(model, plan, TARGET)
    calibrated = with_scales(plan, model, random_feeds(model))
    quantized = inserted(model, calibrated)
    emit(quantized, calibrated, TARGET)
    real = len(ir.to_proto(quantized).SerializeToString())
    # Zero points that happen to differ (a uint8 each, with its name) are all that is not known in advance.
    assert abs(estimate - real) <= 80 * len(plan.activations)
    assert 0 <= emitted_bytes(model, calibrated, TARGET) - real <= 200  # biases that are still equal are stored once
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_bytes_of_a_weight_tell_how_much_a_width_saves() -> None:
    model = prepare(large())
    plan = place_quantizers(model, TARGET, edge_bits=2)
    sizes = {
        bits: emitted_bytes(model, override_widths(plan, TARGET, Widths(weights={"conv1": bits})), TARGET)
        for bits in (8, 4, 3, 2)
    }
    count = 64 * 64 * 9
    for bits, size in sizes.items():
        saved = weight_bytes(count, 8, TARGET) - weight_bytes(count, bits, TARGET)
        # a single weight of its width pays for the constants of its words alone
        assert abs(sizes[8] - size - saved) <= 400, bits
    assert sizes[2] < sizes[3] < sizes[4] < sizes[8]


def test_bytes_follow_what_the_target_packs() -> None:
    loose = replace(TARGET, packed_weight_bits=0, dense_weight_bits=0)
    assert [weight_bytes(10_000, bits, loose) for bits in (2, 3, 4, 8)] == [10_000] * 4
    assert weight_bytes(10, 3, TARGET) == weight_bytes(10, 4, TARGET)  # too few for words
    assert np.diff([weight_bytes(10_000, bits, TARGET) for bits in (2, 3, 4, 8)]).min() > 0
