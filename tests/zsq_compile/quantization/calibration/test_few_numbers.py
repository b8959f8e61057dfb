"""Ranges of values with one number for each channel and sample, against the error on samples that were not seen."""

import pytest
import torch
from torch import Tensor

from backends.target import NumberFormat
from zsq_compile.quantization.calibration.few_numbers import MOST, FewNumbers
from zsq_compile.quantization.calibration.scales import scale_from_range

EIGHT = NumberFormat(bits=8, signed=False, symmetric=False)


def seen(*batches: Tensor) -> tuple[float, float] | None:
    few = FewNumbers()
    for batch in batches:
        few.observe(batch)
    return few.widen(EIGHT)


def error(values: Tensor, low: float, high: float) -> float:
    scale = scale_from_range(low, high, EIGHT)
    codes = (torch.round(values / float(scale.scale)) + int(scale.zero_point)).clamp(0, 255)
    return float(((codes - int(scale.zero_point)) * float(scale.scale) - values).square().sum())


def test_the_next_samples_lose_less_than_on_the_range_of_the_first() -> None:
    before, after = [], []
    for draw in range(40):
        rng = torch.Generator().manual_seed(draw)
        values = torch.randn(216, 12, 1, 1, generator=rng).double().exp()
        found = seen(values[:8], values[8:16])
        assert found is not None
        before.append(error(values[16:], min(float(values[:16].min()), 0.0), float(values[:16].max())))
        after.append(error(values[16:], *found))
    assert sum(after) < 0.9 * sum(before)


def test_values_that_have_an_end_keep_it() -> None:
    values = torch.rand(32, 16, generator=torch.Generator().manual_seed(0)).round()
    assert seen(values) == pytest.approx((0.0, 1.0), rel=0.06)


def test_the_cut_into_batches_does_not_matter() -> None:
    values = torch.randn(20, 5, 1, 1, generator=torch.Generator().manual_seed(1))
    assert seen(values) == seen(values[:3], values[3:4], values[4:])


@pytest.mark.parametrize(
    "batches",
    [
        [torch.zeros(4, 3, 2, 2)],
        [torch.zeros(8)],
        [torch.zeros(MOST // 4, 5)],
        [torch.zeros(3, 5)],
        [torch.zeros(4, 5), torch.zeros(4, 6)],
        [torch.zeros(4, 5), torch.zeros(4, 5, 2)],
        [],
    ],
    ids=["maps", "no channels", "enough numbers", "too few samples", "two widths", "a map behind", "nothing"],
)
def test_all_others_are_left_to_what_was_seen(batches: list[Tensor]) -> None:
    assert seen(*batches) is None


def test_zeros_keep_a_range_of_zeros() -> None:
    assert seen(torch.zeros(8, 4)) == (0.0, 0.0)
