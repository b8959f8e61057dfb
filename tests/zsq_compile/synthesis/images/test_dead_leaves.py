import numpy as np
import pytest
import torch

from tests.zsq_compile.synthesis.images.test_spectral import slope
from tests.zsq_compile.synthesis.networks import correlation, seeded
from zsq_compile.synthesis.images import dead_leaves
from zsq_compile.synthesis.images.dead_leaves import prior_images


@pytest.mark.parametrize(
    ("count", "channels", "height", "width"),
    [(3, 3, 32, 32), (2, 1, 28, 28), (1, 3, 17, 40), (2, 3, 120, 100), (5, 3, 4, 4)],
)
def test_images_have_the_size_asked_for_and_stay_in_the_unit_range(
    count: int, channels: int, height: int, width: int
) -> None:
    images = prior_images(count, channels, height, width, seeded())
    assert images.shape == (count, channels, height, width)
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all()
    assert images.min() >= 0.0 and images.max() <= 1.0


def test_the_same_generator_state_gives_the_same_bytes_and_another_does_not() -> None:
    first, again, other = (prior_images(4, 3, 24, 24, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_large_sets_are_drawn_in_groups_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    painted = dead_leaves._paint_labels

    def paint(count: int, size: tuple[int, int], rng: torch.Generator) -> tuple[torch.Tensor, int]:
        sizes.append(count)
        return painted(count, size, rng)

    monkeypatch.setattr(dead_leaves, "_paint_labels", paint)
    monkeypatch.setattr(dead_leaves, "_GROUP_PIXELS", 3 * 100 * 100)
    images = prior_images(7, 3, 100, 100, seeded())
    assert sizes == [3, 3, 1]
    assert len(torch.unique(images.mean((1, 2, 3)))) == 7


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    return prior_images(128, 3, 64, 64, seeded())


def test_the_spectrum_falls_about_as_one_over_f(photographs: torch.Tensor) -> None:
    window = torch.hann_window(64, periodic=False)
    gray = photographs.mean(1, keepdim=True)
    assert slope((gray - gray.mean((2, 3), keepdim=True)) * window * window[:, None], 2) == pytest.approx(-1.3, abs=0.5)


def test_colours_are_correlated_as_in_photographs(photographs: torch.Tensor) -> None:
    red_green, red_blue, green_blue = correlation([photographs[:, channel].numpy() for channel in range(3)])[
        [0, 0, 1], [1, 2, 2]
    ]
    assert red_green > 0.75 and green_blue > 0.75
    assert 0.5 < red_blue < min(red_green, green_blue)


def test_brightness_and_contrast_are_those_of_photographs(photographs: torch.Tensor) -> None:
    channels = photographs.transpose(0, 1).flatten(1)
    np.testing.assert_allclose(channels.mean(1), (0.485, 0.456, 0.406), atol=0.06)
    np.testing.assert_allclose(channels.std(1), (0.26, 0.26, 0.26), atol=0.05)
    contrast = photographs.std((1, 2, 3))
    assert contrast.max() > 2.0 * contrast.min()


def test_the_tails_of_the_range_are_reached(photographs: torch.Tensor) -> None:
    assert (photographs < 0.05).float().mean() > 0.005
    assert (photographs > 0.95).float().mean() > 0.005


def test_other_channel_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="1, 3 or 4 channels, got 2"):
        prior_images(1, 2, 8, 8, seeded())
