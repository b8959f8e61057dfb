from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from backends.catalog import load_target
from backends.target import NumberFormat
from passes.plan import ActivationSite, QuantizationPlan, Scale, WeightSite
from passes.quantizer_grid import dequantize_array, quantize_array
from zsq_compile.quantization.calibration.scales import choose_steps, choose_weight_scales, scale_from_range

UINT8 = NumberFormat(bits=8, signed=False, symmetric=False)
INT8 = load_target("ort_cpu").weight
ENDS = st.floats(2.0**-20, 1e6, width=32)
FORMATS = [
    NumberFormat(bits=bits, signed=signed, symmetric=symmetric)
    for bits in (16, 8, 4, 3, 2)
    for signed in (False, True)
    for symmetric in (False, True)
]


@given(ENDS, ENDS, st.booleans(), st.booleans(), st.sampled_from(FORMATS))
def test_the_grid_covers_the_range_and_zero_up_to_one_step(
    below: float, above: float, has_low: bool, has_high: bool, number_format: NumberFormat
) -> None:
    assume(has_low or has_high)
    low, high = -below * has_low, above * has_high
    scale = scale_from_range(low, high, number_format)
    assert scale.scale.dtype == np.float32 and scale.zero_point.dtype == np.int32
    assert scale.scale.shape == scale.zero_point.shape == ()
    assert number_format.qmin <= scale.zero_point <= number_format.qmax
    step = float(scale.scale)
    lowest, highest = ((code - int(scale.zero_point)) * step for code in (number_format.qmin, number_format.qmax))
    assert lowest <= low + step and high - step <= highest
    assert lowest <= 0.0 <= highest
    if not number_format.symmetric:
        levels = number_format.qmax - number_format.qmin
        assert step <= (high - low) / levels  # no code is wasted
        assert step >= (high - low) / levels * (1 - 1e-6)


@given(ENDS, ENDS, st.sampled_from(FORMATS))
def test_zero_is_a_code(below: float, above: float, number_format: NumberFormat) -> None:
    scale = scale_from_range(-below, above, number_format)
    zero = quantize_array(np.zeros((), np.float32), scale, number_format)
    assert dequantize_array(zero, scale) == 0.0


@given(ENDS, ENDS, st.booleans(), st.booleans())
def test_a_clip_at_the_ends_of_the_range_falls_on_the_ends_of_the_grid(
    below: float, above: float, has_low: bool, has_high: bool
) -> None:
    """What ONNX Runtime asks of a Clip that it drops, in its own float32."""
    assume(has_low or has_high)
    low, high = np.float32(-below * has_low), np.float32(above * has_high)
    scale = scale_from_range(float(low), float(high), UINT8)
    assert np.rint(low / scale.scale) + scale.zero_point <= 0
    assert np.rint(high / scale.scale) + scale.zero_point >= 255


@pytest.mark.parametrize(
    ("low", "high", "step", "zero_point"),
    [
        (0.0, 255.0, 1.0, 0),
        (0.0, 6.0, 6 / 255, 0),
        (-1.0, 1.0, 2 / 255, 128),
        (-3.0, 0.0, 3 / 255, 255),
        (1, 2, 2 / 255, 0),
    ],
)
def test_known_scales(low: float, high: float, step: float, zero_point: int) -> None:
    scale = scale_from_range(low, high, UINT8)
    assert float(scale.scale) == pytest.approx(step, rel=1e-6)
    assert int(scale.zero_point) == zero_point


def test_symmetric_formats_have_their_zero_in_the_middle() -> None:
    signed = scale_from_range(-2.0, 1.0, NumberFormat(bits=8, signed=True, symmetric=True))
    assert (int(signed.zero_point), float(signed.scale)) == (0, pytest.approx(2 / 127))
    unsigned = scale_from_range(-1.0, 2.0, NumberFormat(bits=8, signed=False, symmetric=True))
    assert (int(unsigned.zero_point), float(unsigned.scale)) == (128, pytest.approx(2 / 127))


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_range_of_zero_has_a_usable_scale(number_format: NumberFormat) -> None:
    scale = scale_from_range(0.0, 0.0, number_format)
    assert 1e-6 < float(scale.scale) <= 1.0


def test_tiny_ranges_stay_normal_numbers() -> None:
    scale = scale_from_range(-1e-30, 2e-30, UINT8)
    assert float(scale.scale) >= 1e-13
    assert 0 <= int(scale.zero_point) <= 255


def one_layer(
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    axis: int = 0,
    number_format: NumberFormat = INT8,
    data_step: float = 0.02,
    method: str = "mse",
) -> Scale:
    plan = QuantizationPlan(
        activations=(ActivationSite(value="x", number_format=UINT8, group="g"),),
        weights=(
            WeightSite(
                node="layer",
                initializer="w",
                axis=axis,
                number_format=number_format,
                data_input="x",
                bias=None if bias is None else "b",
            ),
        ),
        refusals=(),
        activation_scales={"g": Scale(scale=np.asarray(data_step, np.float32), zero_point=np.asarray(0, np.int32))},
    )
    initializers = {"w": weight} | ({} if bias is None else {"b": bias})
    assert method in ("minmax", "mse")
    return choose_weight_scales(plan, initializers, "minmax" if method == "minmax" else "mse")["w"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("axis", [0, 1])
def test_minmax_maps_the_largest_weight_of_a_channel_to_the_end(axis: int) -> None:
    weight = draw(5, 7, 3)
    scale = one_layer(weight, axis=axis, method="minmax")
    largest = weight.abs().amax([other for other in range(3) if other != axis])
    np.testing.assert_allclose(scale.scale, largest.numpy() / 127, rtol=1e-6)
    assert not scale.zero_point.any() and scale.zero_point.shape == scale.scale.shape


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_mse_steps_are_nearly_the_best_of_a_brute_force_search(bits: int) -> None:
    number_format = replace(INT8, bits=bits, narrow=False)
    weight = draw(4, 1000).double() ** 3
    found = choose_steps(weight, number_format, "mse")

    def error(row: torch.Tensor, step: float) -> float:
        codes = np.clip(np.rint(row.numpy() / step), number_format.qmin, number_format.qmax)
        return float((np.abs(codes * step - row.numpy()) ** 2.4).sum())

    for row, step in zip(weight, found.tolist(), strict=True):
        reach = float(row.abs().max()) / number_format.qmax
        brute = min(error(row, fraction * reach) for fraction in np.linspace(0.2, 1.0, 400))
        assert error(row, step) <= 1.05 * brute
        assert error(row, step) <= error(row, reach)


def test_channels_do_not_know_of_each_other() -> None:
    weight = draw(4, 9).double()
    together = choose_steps(weight, INT8, "mse")
    alone = torch.cat([choose_steps(row[None], INT8, "mse") for row in weight])
    assert torch.equal(together, alone)


def test_a_channel_of_zeros_gets_a_scale_like_its_neighbours() -> None:
    weight = draw(5, 9)
    weight[2] = 0.0
    scale = one_layer(weight, bias=torch.ones(5))
    alive = np.delete(scale.scale, 2)
    assert alive.min() <= scale.scale[2] <= alive.max()


def test_a_layer_of_zeros_measures_its_bias_finely() -> None:
    bias = torch.tensor([0.3, -0.7])
    scale = one_layer(torch.zeros(2, 4), bias=bias, data_step=0.05)
    step = scale.scale * np.float32(0.05)
    assert np.all(np.abs(np.rint(bias.numpy() / step) * step - bias.numpy()) < 5e-4)


def test_a_huge_bias_on_tiny_weights_does_not_overflow() -> None:
    weight, bias, data_step = 1e-9 * draw(3, 8), torch.tensor([1e3, -1e3, 0.0]), 1e-4
    scale = one_layer(weight, bias=bias, data_step=data_step)
    codes = bias.double().numpy() / (data_step * scale.scale.astype(np.float64))
    assert np.abs(codes).max() <= 2.0**30 * (1 + 1e-6)  # one bit below int32
    assert np.abs(codes[:2]).min() > 2.0**29  # and no wider than it must be
    unguarded = one_layer(weight, data_step=data_step)
    assert np.abs(bias.numpy() / (data_step * unguarded.scale.astype(np.float64))).max() > 2.0**31
    assert scale.scale[2] == unguarded.scale[2]


def test_a_bias_of_one_number_belongs_to_all_channels() -> None:
    scale = one_layer(1e-9 * draw(3, 8), bias=torch.tensor([1e3]), data_step=1e-4)
    assert scale.scale.shape == (3,)
    assert np.all(1e3 / (1e-4 * scale.scale.astype(np.float64)) <= 2.0**30 * (1 + 1e-6))
