"""One network, sabotaged in one layer for each cause: that layer must be named, with that cause."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.catalog import load_target
from backends.target import NumberFormat
from passes.plan import QuantizationPlan
from passes.quantize.place_quantizers import place_quantizers
from tests import models
from tests.quantizing import prepare
from tests.zsq_compile.quantization.networks import float_network, planned_state, silent_clock
from zsq_compile.config.compile import QuantizationConfig
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.quantization.closed_form import Calibrate
from zsq_compile.quantization.layer_metrics.layer_noise import measure_layers
from zsq_compile.quantization.layer_metrics.layer_quality import LayerQuality, worst_layers
from zsq_compile.quantization.layer_metrics.noise_causes import GridNoise, WeightNoise, reason
from zsq_compile.quantization.state import make_state

TARGET = load_target("ort_cpu")
EIGHT_BITS = NumberFormat(bits=8, signed=False, symmetric=False)
Arrays = dict[str, NDArray[Any]]


def network(changed: Mapping[str, NDArray[Any]] | None = None) -> Any:
    return models.parse(
        """
        chain (float[N,4,8,8] x) => (float[N,5] y)
        <float[16,4,3,3] wa, float[16] ba, float[16,16,3,3] wb, float[16] bb, float[16,8,2,2] wc, float[16] bc,
         float[5,16] wd, float[5] bd>
        {
            [a] ca = Conv<pads=[1,1,1,1]>(x, wa, ba)
            [a_relu] ra = Relu(ca)
            [b] cb = Conv<pads=[1,1,1,1]>(ra, wb, bb)
            [b_relu] rb = Relu(cb)
            [c] cc = ConvTranspose<strides=[2,2], group=2>(rb, wc, bc)
            [c_relu] rc = Relu(cc)
            [pool] p = GlobalAveragePool(rc)
            [flatten] f = Flatten(p)
            [d] y = Gemm<transB=1>(f, wd, bd)
        }
        """,
        weights=changed,
    )


def original() -> Arrays:
    return {name: value.numpy() for name, value in TorchGraph(prepare(network())).initializers.items()}


def images(seed: int = 0, count: int = 32) -> Tensor:
    return torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def judged(
    changed: Arrays | None = None,
    *,
    outliers: float | None = None,
    seen: bool = True,
    narrowed: str | None = None,
    formats: Mapping[str, int] | None = None,
    config: QuantizationConfig | None = None,
) -> tuple[LayerQuality, ...]:
    model, config = prepare(network(changed)), config or QuantizationConfig(calibration_method="minmax")
    calibration, held_out = images(), images(1)
    if outliers is not None:
        for data in (calibration, held_out) if seen else (held_out,):
            data[::8, 0, 3, 3] = outliers
    plan = place_quantizers(model, TARGET, bits=config.bits, act_bits=config.act_bits, edge_bits=config.edge_bits)
    ready = float_network(model, {"x": calibration}, held_out={"x": held_out})
    planned = planned_state(ready, _at_widths(plan, formats or {}))
    state, _ = Calibrate(config=config).run(ready, planned, silent_clock())
    if narrowed is not None:
        scale = state.plan.activation_scales[narrowed]
        narrow = {narrowed: replace(scale, scale=np.asarray(scale.scale / 4))}
        state = make_state(model, state.plan.with_scales(activations=narrow))
    return measure_layers(ready, {"calibrate": state})


def _at_widths(plan: QuantizationPlan, widths: Mapping[str, int]) -> QuantizationPlan:
    """Give single layers' weights, by node, fewer bits."""
    return replace(
        plan,
        weights=tuple(
            replace(site, number_format=replace(site.number_format, bits=widths[site.node], narrow=False))
            if site.node in widths
            else site
            for site in plan.weights
        ),
    )


def worst(found: tuple[LayerQuality, ...]) -> tuple[str, str | None]:
    layer = worst_layers(found)[0]
    return layer.node, layer.reason


def test_nothing_stands_out_where_nothing_is_amiss() -> None:
    found = judged()
    assert [quality.reason for quality in found] == [None] * 5
    assert all(quality.own_sqnr_db > 30.0 for quality in found)


def test_a_few_large_numbers_in_the_input() -> None:
    weights = original()["wa"].copy()
    weights[:, 0] *= 0.01  # what they do to the layers behind is nothing special
    node, told = worst(judged({"wa": weights}, outliers=300.0))
    assert node == "a"
    assert told is not None and told.startswith("range outlier: the largest of 'x'") and "is cut" not in told


def test_a_few_large_numbers_that_the_grid_does_not_reach() -> None:
    weights = original()["wa"].copy()
    weights[:, 0] *= 0.01
    node, told = worst(judged({"wa": weights}, outliers=300.0, seen=False))
    assert node == "a"
    assert told is not None and told.startswith("range outlier: the largest of 'x'") and told.endswith("is cut")


def test_one_channel_much_stronger_than_the_others() -> None:
    made = original()
    made["wa"][0] *= 200.0
    made["ba"][0] *= 200.0
    made["wb"][:, 0] /= 200.0  # the network computes the same
    node, told = worst(judged({name: made[name] for name in ("wa", "ba", "wb")}))
    assert node == "b"
    assert told is not None and told.startswith("per-channel spread: one channel of 'ra' is")


def test_a_grid_that_is_too_narrow() -> None:
    node, told = worst(judged(narrowed="ra"))
    assert node == "b"
    assert told is not None and told.startswith("saturated: ") and "of 'ra' lies beyond its grid" in told


def test_a_bias_that_int32_holds_only_with_coarse_weights() -> None:
    bias = original()["bc"].copy()
    bias[0] = -3e6  # a dead channel, and the group's other channels have its weight step
    node, told = worst(judged({"bc": bias}))
    assert node == "c"
    assert told is not None and told.startswith("bias overflow: a bias of code 1.1e+09")


def test_weights_of_two_bits() -> None:
    node, told = worst(judged(formats={"b": 2}))
    assert node == "b"
    assert told is not None and told.startswith("few bits: 2-bit weights make")


def test_activations_of_two_bits() -> None:
    found = judged(config=QuantizationConfig(act_bits=2))
    node, told = worst(found)
    assert node in ("b", "c", "pool")
    assert told is not None and told.startswith("few bits: the 2-bit grid of")
    assert next(quality for quality in found if quality.node == "a").reason is None  # edges keep 8 bits


def test_a_grid_s_noise_is_parted_into_what_it_cuts_and_what_it_rounds() -> None:
    grid = GridNoise("v", EIGHT_BITS)
    values = torch.tensor([[-0.3, 0.2, 100.4, 255.4, 257.0, 300.0]])
    grid.observe(values, torch.tensor(1.0), torch.tensor(0.0), 1)
    assert (grid.beyond, grid.elements, grid.largest) == (2, 6, 300.0)
    assert grid.cut == pytest.approx(2.0**2 + 45.0**2)
    assert grid.rounded == pytest.approx(0.3**2 + 0.2**2 + 2 * 0.4**2, rel=1e-3)


def test_the_usual_magnitude_leaves_zeros_and_one_in_a_thousand_out() -> None:
    grid = GridNoise("v", EIGHT_BITS)
    values = torch.cat([torch.zeros(5000), torch.linspace(0.001, 1.0, 1000), torch.tensor([50.0])])
    grid.observe(values, torch.tensor(1.0), torch.tensor(0.0), 1)
    assert grid.usual == pytest.approx(0.999, abs=0.002)
    assert grid.outlier() == pytest.approx(50.0, rel=0.01)


def test_spread_is_of_channels_not_of_single_numbers() -> None:
    values = torch.ones(64, 10, 4)
    values[0, 0, 0] = 100.0
    one_number, one_channel = GridNoise("v", EIGHT_BITS), GridNoise("v", EIGHT_BITS)
    one_number.observe(values, torch.tensor(1.0), torch.tensor(0.0), 1)
    assert one_number.spread() < 1.5
    values[:, 0] = 100.0
    values[:, 1] = 0.0  # a silent channel has no range to lose
    one_channel.observe(values, torch.tensor(1.0), torch.tensor(0.0), 1)
    assert one_channel.spread() == pytest.approx(100.0)


def test_a_value_of_zeros_has_no_cause() -> None:
    grid = GridNoise("v", EIGHT_BITS)
    grid.observe(torch.zeros(4, 3), torch.tensor(1.0), torch.tensor(0.0), 1)
    assert (grid.spread(), grid.outlier()) == (1.0, 1.0)
    assert reason(0.0, None, [grid]) is None
    assert reason(1.0, None, [grid]) is None


def test_of_two_inputs_the_noisier_one_is_named_with_its_part() -> None:
    narrow = NumberFormat(bits=4, signed=False, symmetric=False)
    fine, coarse = GridNoise("fine", narrow), GridNoise("coarse", narrow)
    values = torch.linspace(0.0, 15.0, 1001).reshape(7, 11, 13)
    fine.observe(values, torch.tensor(1.0), torch.tensor(0.0), 1)
    coarse.observe(2.0 * values, torch.tensor(2.0), torch.tensor(0.0), 1)
    assert reason(1.0, None, [fine, coarse]) == "few bits: the 4-bit grid of 'coarse' makes 80% of the noise"


def test_weights_are_named_only_where_they_make_most_of_the_noise() -> None:
    grid = GridNoise("v", EIGHT_BITS)
    grid.observe(torch.linspace(0.0, 1.0, 100).reshape(10, 10), torch.tensor(0.01), torch.tensor(0.0), 1)
    for power, told in ((0.4, None), (0.6, "few bits: 3-bit weights make 60% of the noise")):
        weights = WeightNoise(bits=3, power=power, large_bias=0.0, largest_bias=0.0)
        assert reason(1.0, weights, [grid]) == told


def test_a_channel_that_is_silent_beside_the_others_makes_no_spread() -> None:
    values = torch.ones(64, 9, 4)
    values[:, :5] = 1e-40
    grid = GridNoise("v", EIGHT_BITS)
    grid.observe(values, torch.tensor(1.0), torch.tensor(0.0), 1)
    assert grid.spread() == pytest.approx(1.0)


def test_nothing_is_seen_in_no_elements() -> None:
    grid = GridNoise("v", EIGHT_BITS)
    grid.observe(torch.zeros(4, 0, 3), torch.tensor(1.0), torch.tensor(0.0), 1)
    assert (grid.elements, grid.spread(), grid.outlier()) == (0.0, 1.0, 1.0)
