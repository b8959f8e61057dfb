from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from backends.catalog import load_target
from passes.batchnorm.harvest_batchnorm import harvest_batchnorm
from passes.quantize.layer_pairs import find_pairs
from passes.quantize.place_quantizers import place_quantizers
from passes.weight_layout import by_channels
from tests import models
from tests.quantizing import execute, inserted, prepare, random_feeds, sqnr, with_scales
from tests.zsq_compile.quantization.networks import NO_STATISTICS
from zsq_compile.progress import Silent
from zsq_compile.quantization import even_channels as module
from zsq_compile.quantization.even_channels import even_channels
from zsq_compile.quantization.samples import Samples

TARGET = load_target("ort_cpu")
NETWORK = """
net (float[N,3,8,8] x) => (float[N,4,1,1] y)
<float[8,3,3,3] w0, float[8] b0, float[8,LAST,3,3] w1, float[8] b1, float[4,8,1,1] w2>
{
    [first] c = Conv<pads=[1,1,1,1]>(x, w0, b0)
    [act] r = ACTIVATION(c)
    [second] d = Conv<pads=[1,1,1,1], group=GROUP>(r, w1, b1)
    [relu] s = Relu(d)
    [third] e = Conv(s, w2)
    [pool] y = GlobalAveragePool(e)
}
"""
DENSE = """
net (float[N,6] x) => (float[N,4] y) <float[6,8] w0, float[8] b0, float[8,8] w1, float[8] b1, float[8,4] w2>
{
    [first] c = Gemm(x, w0, b0) [act] r = Relu(c) [second] d = Gemm(r, w1, b1)
    [relu] s = Relu(d) [third] y = MatMul(s, w2)
}
"""


def uneven(text: str, orders: float) -> onnx.ModelProto:
    """A network whose channels between the first two layers differ by so many orders of magnitude; no output does."""
    factors = 10.0 ** np.linspace(-orders / 2, orders / 2, 8)
    plain = models.parse(text)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in plain.graph.initializer}
    if arrays["w0"].ndim == 2:
        changed = {"w0": arrays["w0"] * factors, "w1": arrays["w1"] / factors[:, None]}
    else:
        inside = factors.reshape((-1, 1, 1, 1) if arrays["w1"].shape[1] == 1 else (1, -1, 1, 1))
        changed = {"w0": arrays["w0"] * factors.reshape(-1, 1, 1, 1), "w1": arrays["w1"] / inside}
    return models.parse(text, weights={**changed, "b0": arrays["b0"] * factors})


def evened(model: Any, plan: Any, feeds: dict[str, NDArray[Any]], statistics: Any = NO_STATISTICS) -> Any:
    samples = Samples(inputs={name: torch.from_numpy(array) for name, array in feeds.items()})
    return even_channels(model, statistics, plan, samples, Silent())


def text(activation: str = "Relu", group: int = 1) -> str:
    last = "1" if group == 8 else "8"
    return NETWORK.replace("ACTIVATION", activation).replace("GROUP", str(group)).replace("LAST", last)


CASES = {
    "relu": text(),
    "leaky": text("LeakyRelu<alpha=0.25>"),
    "depthwise": text(group=8),
    "dense": DENSE,
    "nothing between": text("Identity"),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_of_several_orders_of_magnitude_lose_nothing(name: str) -> None:
    model = prepare(uneven(CASES[name], 4.0))
    feeds, other = random_feeds(model, batch=16), random_feeds(model, batch=16, seed=1)
    plan = place_quantizers(model, TARGET)
    even, _ = evened(model, plan, feeds)
    assert even is not model
    reference = execute(model, other, optimize="none")["y"]
    np.testing.assert_array_equal(execute(even, other, optimize="none")["y"], reference)
    before, after = (
        sqnr(reference, execute(inserted(one, with_scales(plan, one, feeds)), other)["y"]) for one in (model, even)
    )
    assert before < 25.0 and after > 27.0 and after > before + 10.0  # dB


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("make", [models.residual, models.depthwise, models.branches, lambda: uneven(text(), 0.5)])
def test_networks_that_are_fine_stay_the_very_same(make: Any, bits: int) -> None:
    model = prepare(make())
    plan = place_quantizers(model, TARGET, bits=bits)
    assert evened(model, plan, random_feeds(model, batch=16)) == (model, NO_STATISTICS)


@pytest.mark.parametrize(
    "between", ["[act] r = Clip(c, low, high)", "[act] r = Tanh(c)", "[relu] s0 = Relu(c) [act] r = Add(s0, c)"]
)
def test_what_does_not_scale_is_left_alone(between: str) -> None:
    changed = (
        text()
        .replace("[act] r = Relu(c)", between)
        .replace("<float[8,3", "<float low = {0.0}, float high = {6.0}, float[8,3")
    )
    model = prepare(uneven(changed, 4.0))
    assert evened(model, place_quantizers(model, TARGET), random_feeds(model))[0] is model


def test_channels_that_are_silent_stay_as_they_are() -> None:
    proto = uneven(text(), 4.0)
    model = prepare(proto)
    for name in ("w0", "b0"):
        value = model.graph.initializers[name]
        array = value.const_value.numpy().copy()  # type: ignore[union-attr]
        array[3] = 0.0
        value.const_value = ir.tensor(array, name=name)
    even, _ = evened(model, place_quantizers(model, TARGET), random_feeds(model, batch=16))
    before, after = (one.graph.initializers["w1"].const_value.numpy() for one in (model, even))
    np.testing.assert_array_equal(after[:, 3], before[:, 3])
    assert np.isfinite(after).all() and (after != before).any()


def test_statistics_hold_for_the_channels_that_were_evened_out() -> None:
    proto = models.parse(
        """
        net (float[N,3,8,8] x) => (float[N,4,1,1] y)
        <float[8,3,3,3] w0, float[8] scale0, float[8] shift0, float[8] mean0, float[8] variance0,
         float[8,8,3,3] w1, float[8] scale1, float[8] shift1, float[8] mean1, float[8] variance1, float[4,8,1,1] w2>
        {
            [first] c = Conv(x, w0) [bn0] n = BatchNormalization(c, scale0, shift0, mean0, variance0) [act] r = Relu(n)
            [second] d = Conv(r, w1) [bn1] m = BatchNormalization(d, scale1, shift1, mean1, variance1)
            [relu] s = Relu(m) [third] e = Conv(s, w2) [pool] y = GlobalAveragePool(e)
        }
        """,
    )
    factors = 10.0 ** np.linspace(-2, 2, 8)
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    weights = {
        "scale0": arrays["scale0"] * factors,
        "shift0": arrays["shift0"] * factors,
        "w1": arrays["w1"] / factors.reshape(1, -1, 1, 1),
    }
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name].astype(np.float32), tensor.name))
    statistics = harvest_batchnorm(ir.from_proto(proto))
    model = prepare(proto)
    feeds = random_feeds(model, batch=16)
    even, kept = evened(model, place_quantizers(model, TARGET), feeds, statistics)
    assert even is not model and len(kept.entries) == 2
    touched, untouched = kept.entries
    assert untouched is statistics.entries[1]
    weight = [one.graph.initializers["w0"].const_value.numpy() for one in (model, even)]
    moved = np.abs(weight[0]).sum((1, 2, 3)) / np.abs(weight[1]).sum((1, 2, 3))
    assert (np.log2(moved) % 1 == 0).all() and moved.max() / moved.min() > 100
    np.testing.assert_allclose(touched.scale * moved, statistics.entries[0].scale, rtol=1e-6)
    np.testing.assert_allclose(touched.shift * moved, statistics.entries[0].shift, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_numbers_taken_by_parts_give_the_same_noise(name: str, per_channel: bool, monkeypatch: Any) -> None:
    model = prepare(uneven(CASES[name], 2.0))
    plan = place_quantizers(model, TARGET)
    pair = next(pair for pair in find_pairs(model.graph)[0] if pair.first.name == "first")
    site = next(site for site in plan.weights if site.node == "second")
    site = replace(site, axis=site.axis if per_channel else None)
    rows = torch.from_numpy(np.random.default_rng(0).random((8, 40), np.float32))
    ratios = []
    for part in (1 << 21, 8):
        monkeypatch.setattr(module, "_PART", part)
        channels = module._Channels.none(8)
        channels.observe(rows)
        noise = module._PairNoise.of(pair, site, 256, channels)
        ratios.append([noise.ratio(divisors) for divisors in (np.ones(8), *noise.candidates())])
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-9)
    weight = by_channels(pair.second, pair.second.inputs[1].const_value.numpy().astype(np.float64))
    power = (rows.double() ** 2).mean(1).numpy().reshape(len(weight), 1, -1, 1)
    reach = float(rows.max()) / 255
    steps = np.abs(weight).max((2, 3) if per_channel else None) / site.number_format.qmax
    noises = reach**2 * (weight**2).sum((2, 3)) + steps**2 * power.sum((2, 3)) * weight.shape[3]
    assert ratios[0][0] == pytest.approx((noises / (weight**2 * power).sum((2, 3))).mean() / 12, rel=1e-6)
