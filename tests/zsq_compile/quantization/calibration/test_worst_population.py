import pytest
import torch
from torch import Tensor

from backends.target import NumberFormat
from zsq_compile.quantization.calibration.observers import Extremes, Histogram, choose_range
from zsq_compile.quantization.calibration.scales import scale_from_range
from zsq_compile.quantization.calibration.worst_population import choose_joint_range

FORM = NumberFormat(bits=8, signed=False, symmetric=False, narrow=False)


def counted(values: Tensor) -> Histogram:
    ends = Extremes()
    ends.observe(values)
    histogram = Histogram(ends)
    histogram.observe(values)
    return histogram


def relative_error(values: Tensor, ends: tuple[float, float]) -> float:
    """Squared error of rounding and cutting, over the variance, in closed form."""
    scale = scale_from_range(*ends, FORM)
    step, zero = float(scale.scale), int(scale.zero_point)
    made = (torch.clamp(torch.round(values / step) + zero, 0, 255) - zero) * step
    return float((made - values).square().mean() / values.var())


@pytest.fixture
def populations() -> list[Tensor]:
    """Rectified normal numbers, and others eight times as large."""
    rng = torch.Generator().manual_seed(0)
    return [size * torch.randn(20_000, generator=rng).abs() for size in (1.0, 8.0)]


def test_the_worst_population_is_better_off_than_with_the_range_of_all(populations: list[Tensor]) -> None:
    histograms = [counted(values) for values in populations]
    joint = choose_joint_range(histograms, (0.5, 0.5), FORM, "mse")
    pooled = choose_range(counted(torch.cat(populations)), FORM, "mse")
    errors, before = ([relative_error(values, ends) for values in populations] for ends in (joint, pooled))
    assert max(errors) < 0.55 * max(before)
    assert errors[0] == pytest.approx(errors[1], rel=0.3)  # which is where the largest is smallest
    narrow = choose_joint_range(histograms[:1], (1.0,), FORM, "mse")
    assert narrow == choose_range(histograms[0], FORM, "mse")


def test_an_improbable_population_takes_little(populations: list[Tensor]) -> None:
    histograms = [counted(values) for values in populations]
    alone = relative_error(populations[0], choose_range(histograms[0], FORM, "mse"))
    errors = [
        relative_error(populations[0], choose_joint_range(histograms, (1.0 - share, share), FORM, "mse"))
        for share in (0.5, 0.2, 0.05, 0.001)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 4.0 * alone < errors[0]


def test_two_sided_values_of_different_middle(populations: list[Tensor]) -> None:
    values = [populations[0] - 3.0, populations[1] + 1.0]
    low, high = choose_joint_range([counted(one) for one in values], (0.5, 0.5), FORM, "mse")
    assert -3.1 < low < -2.0
    assert 8.0 < high < 33.0


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_other_methods_cover_what_each_population_asks_for(populations: list[Tensor], method: str) -> None:
    histograms = [counted(values) for values in populations]
    ends = [choose_range(one, FORM, method) for one in histograms]
    assert choose_joint_range(histograms, (0.5, 0.5), FORM, method) == (
        min(low for low, _ in ends),
        max(high for _, high in ends),
    )
