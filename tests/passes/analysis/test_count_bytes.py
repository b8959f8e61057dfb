"""Bytes by what they are for, held against the sizes of the arrays themselves."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from backends.catalog import load_target
from passes.analysis.count_bytes import count_bytes
from passes.emit.emit import emit
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import inserted, prepare, random_feeds, with_scales
from tests.storing import lookup


def test_a_float_file() -> None:
    proto = models.residual()
    contents = count_bytes(ir.from_proto(proto), proto.ByteSize())
    assert contents.weights == {"conv0": 864, "conv1": 2304, "conv2": 2304, "gemm": 160}
    assert (contents.biases, contents.scales) == (20, 0)
    assert contents.constants == 3 * 4 * 8 * 4, "four parameters of three BatchNormalizations"
    assert contents.total == proto.ByteSize()
    assert contents.structure > 0


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_file(bits: int) -> None:
    model, target = prepare(models.residual()), load_target("ort_cpu")
    plan = with_scales(
        place_quantizers(model, target, bits=bits, edge_bits=bits), model, random_feeds(ir.to_proto(model))
    )
    quantized = inserted(model, plan)
    emit(quantized, plan, target)
    proto = ir.to_proto(quantized)
    contents = count_bytes(ir.from_proto(onnx.ModelProto.FromString(proto.SerializeToString())), proto.ByteSize())
    counts = {"conv0": 288, "conv1": 576, "conv2": 576, "gemm": 40}
    # a picture's three channels are four
    assert contents.weights == {name: count * bits // 8 for name, count in counts.items()}
    assert contents.biases == 4 * (8 + 8 + 8 + 5), "int32"
    assert contents.scales >= 4 * (8 + 8 + 8 + 5), "a float for every channel of the weights, at least"
    assert contents.total == proto.ByteSize()


def test_digits_of_words_are_weights_of_their_layer() -> None:
    text = """
    net (float[N,32,4,4] x) => (float[N,64,4,4] y) <float[64,32,3,3] w>
    { [conv] c = Conv<pads=[1,1,1,1]>(x, w) [end] y = Tanh(c) }
    """
    model, target = prepare(models.parse(text)), load_target("ort_cpu")
    plan = with_scales(place_quantizers(model, target, bits=3, edge_bits=3), model, random_feeds(ir.to_proto(model)))
    quantized = inserted(model, plan)
    emit(quantized, plan, target)
    contents = count_bytes(quantized, ir.to_proto(quantized).ByteSize())
    assert contents.weights["conv"] == pytest.approx(64 * 32 * 9 * 3 / 8, rel=0.02), (
        "three bits each, but for a last word"
    )


def test_stored_constants_are_weights_of_the_operators_that_read_them() -> None:
    model, target = prepare(lookup()), load_target("ort_cpu")
    plan = with_scales(place_quantizers(model, target, bits=4), model, {"ids": np.zeros((2, 5), np.int64)})
    quantized = inserted(model, plan)
    emit(quantized, plan, target)
    before, after = count_bytes(model, 1 << 20), count_bytes(quantized, 1 << 20)
    assert {name: before.weights[name] for name in ("table", "cell")} == {"table": 4 * 60 * 24, "cell": 4 * 64 * 40}
    assert {name: after.weights[name] for name in ("table", "cell")} == {"table": 60 * 24, "cell": 64 * 40 // 2}
    assert after.constants == before.constants
