import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

from backends.target import NumberFormat
from zsq_compile.config.compile import CalibrationMethod
from zsq_compile.quantization.calibration import observers
from zsq_compile.quantization.calibration.observers import BINS, Extremes, Histogram, choose_range

METHODS = get_args(CalibrationMethod)
BATCHES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.floats(-1e4, 1e4, width=32)
)
NUMBERS = {
    "relu": torch.relu(torch.randn(20_000, generator=torch.Generator().manual_seed(0))),
    "normal": torch.randn(20_000, generator=torch.Generator().manual_seed(1)),
    "heavy": torch.randn(20_000, generator=torch.Generator().manual_seed(2)) ** 3,
    "negative": -torch.rand(20_000, generator=torch.Generator().manual_seed(3)),
}


def unsigned(bits: int) -> NumberFormat:
    return NumberFormat(bits=bits, signed=False, symmetric=False)


def seen(*batches: Tensor) -> Histogram:
    extremes = Extremes()
    for batch in batches:
        extremes.observe(batch)
    histogram = Histogram(extremes)
    for batch in batches:
        histogram.observe(batch)
    return histogram


@given(BATCHES)
def test_extremes_are_those_of_the_data_and_zero(array: NDArray[np.float32]) -> None:
    extremes = Extremes()
    for row in array:
        extremes.observe(torch.from_numpy(row))
    assert extremes.low == min(0.0, float(array.min()))
    assert extremes.high == max(0.0, float(array.max()))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_extremes_do_not_lose_what_is_not_finite(bad: float) -> None:
    extremes = Extremes()
    for number in (1.0, bad, 2.0):
        extremes.observe(torch.tensor([number]))
    assert not math.isfinite(extremes.high - extremes.low)


@given(BATCHES)
def test_every_number_is_counted_once_in_its_bin(array: NDArray[np.float32]) -> None:
    histogram = seen(*torch.from_numpy(array))
    if histogram.high > histogram.low:
        assert float(histogram.counts.sum()) == array.size
        expected, _ = np.histogram(array.astype(np.float64), BINS, (histogram.low, histogram.high))
        # a number on the edge of two bins may fall into either
        assert np.abs(np.cumsum(expected) - np.cumsum(histogram.counts.numpy())).max() <= array.size
        centres = histogram.centres().numpy()
        mean = float(histogram.counts.numpy() @ centres) / array.size
        assert abs(mean - array.mean(dtype=np.float64)) <= (histogram.high - histogram.low) / BINS


def test_counts_agree_with_numpy() -> None:
    histogram = seen(NUMBERS["normal"])
    expected, _ = np.histogram(NUMBERS["normal"].double().numpy(), BINS, (histogram.low, histogram.high))
    assert np.abs(histogram.counts.numpy() - expected).sum() <= 4  # of 20,000, on the edges of bins


@settings(deadline=None, max_examples=15)
@given(
    hnp.arrays(np.float32, st.integers(2, 60), elements=st.floats(-100, 100, width=32)),
    st.data(),
    st.sampled_from(METHODS),
)
def test_the_cut_into_batches_does_not_matter(
    array: NDArray[np.float32], data: st.DataObject, method: CalibrationMethod
) -> None:
    cut = data.draw(st.integers(1, len(array) - 1))
    whole = seen(torch.from_numpy(array))
    parts = seen(torch.from_numpy(array[:cut]), torch.from_numpy(array[cut:]))
    assert (whole.low, whole.high) == (parts.low, parts.high)
    assert torch.equal(whole.counts, parts.counts)
    assert choose_range(whole, unsigned(4), method) == choose_range(parts, unsigned(4), method)


def test_large_batches_are_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = seen(NUMBERS["heavy"])
    monkeypatch.setattr(observers, "_CHUNK", 777)
    assert torch.equal(seen(NUMBERS["heavy"].reshape(10, -1, 2)).counts, whole.counts)


def test_no_piece_is_larger_than_float32_can_count() -> None:
    assert observers._CHUNK < 1 << 24


@settings(deadline=None, max_examples=15)
@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32)),
    st.sampled_from(METHODS),
    st.sampled_from([8, 4, 2]),
)
def test_ranges_lie_within_the_extremes_and_hold_zero(
    array: NDArray[np.float32], method: CalibrationMethod, bits: int
) -> None:
    histogram = seen(torch.from_numpy(array))
    low, high = choose_range(histogram, unsigned(bits), method)
    slack = 1e-9 * (histogram.high - histogram.low)
    assert histogram.low - slack <= low <= 0.0 <= high <= histogram.high + slack
    assert high > low or histogram.high == histogram.low


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_constant_values_keep_their_range(method: CalibrationMethod, value: float) -> None:
    histogram = seen(torch.full((50,), value))
    assert choose_range(histogram, unsigned(8), method) == pytest.approx((min(value, 0.0), max(value, 0.0)))


def test_minmax_is_everything() -> None:
    histogram = seen(NUMBERS["heavy"])
    assert choose_range(histogram, unsigned(8), "minmax") == (
        float(NUMBERS["heavy"].min()),
        float(NUMBERS["heavy"].max()),
    )


@pytest.mark.parametrize("name", NUMBERS)
def test_percentile_agrees_with_numpy_up_to_two_bins(name: str) -> None:
    histogram = seen(NUMBERS[name])
    low, high = choose_range(histogram, unsigned(8), "percentile")
    expected = np.percentile(NUMBERS[name].double().numpy(), [0.01, 99.99])
    width = (histogram.high - histogram.low) / BINS
    # two of 20,000 numbers lie beyond each end, with gaps between them: the bound is one of their neighbours
    ordered = np.sort(NUMBERS[name].double().numpy())
    gap = max(ordered[4] - ordered[0], ordered[-1] - ordered[-5])
    assert low == pytest.approx(min(expected[0], 0.0), abs=2 * width + gap)
    assert high == pytest.approx(max(expected[1], 0.0), abs=2 * width + gap)
    assert float((NUMBERS[name] < low - width).float().mean()) <= 1.5e-4
    assert float((NUMBERS[name] > high + width).float().mean()) <= 1.5e-4


def quantization_error(numbers: Tensor, low: float, high: float, bits: int) -> float:
    """Mean 2.4-norm of rounding to an affine grid on [low, high] that holds 0, from the numbers themselves."""
    levels = (1 << bits) - 1
    step = (high - low) / levels
    zero = np.rint(-low / step)
    array = numbers.double().numpy()
    codes = np.clip(np.rint(array / step) + zero, 0, levels)
    return float((np.abs((codes - zero) * step - array) ** 2.4).mean())


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_mse_finds_nearly_the_best_range_of_a_brute_force_search(name: str, bits: int) -> None:
    numbers = NUMBERS[name][:4000]
    histogram = seen(numbers)
    found = quantization_error(numbers, *choose_range(histogram, unsigned(bits), "mse"), bits)
    shrunk = np.linspace(0.05, 1.0, 30)
    brute = min(
        quantization_error(numbers, low * histogram.low, high * histogram.high, bits)
        for low in (shrunk if histogram.low else [0.0])
        for high in (shrunk if histogram.high else [0.0])
    )
    everything = quantization_error(numbers, histogram.low, histogram.high, bits)
    assert found <= everything * 1.001
    assert found <= brute * 1.05  # found on bins


@pytest.mark.parametrize(
    ("method", "name"),
    [("mse", "relu"), ("mse", "normal"), ("mse", "heavy"), ("entropy", "relu"), ("entropy", "heavy")],
)
def test_fewer_codes_take_a_shorter_range(method: CalibrationMethod, name: str) -> None:
    histogram = seen(NUMBERS[name])
    lengths = [high - low for low, high in (choose_range(histogram, unsigned(bits), method) for bits in (8, 4, 2))]
    assert lengths[0] >= lengths[2]
    assert lengths[2] < histogram.high - histogram.low


def test_entropy_cuts_a_far_outlier_and_keeps_the_body() -> None:
    body = torch.rand(20_000, generator=torch.Generator().manual_seed(4))
    histogram = seen(torch.cat([body, torch.tensor([8.0])]))
    _, high = choose_range(histogram, unsigned(8), "entropy")
    assert 0.95 < high < 4.0


def test_the_zeros_of_a_relu_do_not_draw_the_entropy_range_in() -> None:
    positive = NUMBERS["relu"][NUMBERS["relu"] > 0]
    _, without = choose_range(seen(positive), unsigned(8), "entropy")
    _, with_zeros = choose_range(seen(NUMBERS["relu"]), unsigned(8), "entropy")
    assert with_zeros > 0.7 * without
    assert float((NUMBERS["relu"] > with_zeros).float().mean()) < 0.02


def divergence(counts: NDArray[np.float64], codes: NDArray[np.int64], first: int, last: int) -> float:
    """Kullback-Leibler divergence by its definition, in loops."""
    reference = counts[first:last].copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last:].sum()
    quantized = np.zeros(last - first)
    for code in np.unique(codes[first:last]):
        members = [i for i in range(first, last) if codes[i] == code and counts[i] > 0]
        for index in members:
            quantized[index - first] = counts[members].sum() / len(members)
    reference, quantized = reference / reference.sum(), quantized / quantized.sum()
    return sum(p * math.log(p / max(q, 1e-12)) for p, q in zip(reference, quantized, strict=True) if p > 0)


def test_divergence_is_the_one_of_the_definition() -> None:
    histogram = seen(NUMBERS["normal"])
    low, high = torch.tensor([-1.0, -2.0, -4.0]).double(), torch.tensor([2.0, 1.0, 4.0]).double()
    found = observers._divergence(histogram, unsigned(4), low, high)
    counts = observers._without_zero_peak(histogram).numpy()
    codes = observers.quantized_centres(histogram, unsigned(4), low, high)[0].long().numpy()
    centres = histogram.centres().numpy()
    for row in range(3):
        first, last = np.searchsorted(centres, [float(low[row]), float(high[row])])
        assert float(found[row]) == pytest.approx(divergence(counts, codes[row], int(first), int(last)), rel=1e-9)


@pytest.mark.parametrize("name", ["relu", "normal", "heavy", "negative"])
def test_the_range_for_a_symmetric_grid_has_the_least_error_on_that_grid(name: str) -> None:
    data, grid = NUMBERS[name], NumberFormat(bits=4, signed=True, symmetric=True)

    def error(low: float, high: float) -> float:
        step = max(-low, high) / grid.qmax
        codes = torch.clamp(torch.round(data / step), grid.qmin, grid.qmax)
        return float(((codes * step - data).abs() ** observers.CLIPPING_NORM).sum())

    low, high = choose_range(seen(data), grid, "mse")
    reach = float(data.abs().max())
    best = min(error(-reach * share, reach * share) for share in np.linspace(0.05, 1.0, 96))
    assert error(low, high) <= 1.05 * best


def test_what_a_silu_makes_nothing_of_takes_no_codes() -> None:
    numbers = 8.0 * torch.randn(200_000, generator=torch.Generator().manual_seed(0))  # half of it is far below 0
    silu = torch.nn.functional.silu

    def noise(low: float, high: float) -> float:
        step = (high - low) / 255
        codes = torch.clamp(torch.round(numbers / step) - round(low / step), 0, 255)
        return float((silu((codes + round(low / step)) * step) - silu(numbers)).square().mean())

    plain = choose_range(seen(numbers), unsigned(8), "mse")
    behind = choose_range(seen(numbers), unsigned(8), "mse", silu)
    # 3.5 of the 4 dB that a search over all pairs of ends finds for the least error behind the function
    assert noise(*behind) < 0.7 * noise(*plain)
    assert behind[0] > 0.5 * plain[0]
