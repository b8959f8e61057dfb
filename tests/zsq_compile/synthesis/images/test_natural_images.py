import numpy as np
import pytest

from zsq_compile.synthesis.images.natural_images import natural_images, one_over_f


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_pixels_with_a_spread(channels: int) -> None:
    pictures = natural_images(8, channels, 32, 24, np.random.default_rng(0))
    assert pictures.shape == (8, channels, 32, 24) and pictures.dtype == np.float32
    assert pictures.min() >= 0.0 and pictures.max() <= 1.0
    assert 0.1 < pictures.std() < 0.35
    assert len({picture.tobytes() for picture in pictures}) == 8


def test_channels_of_colour_pictures_go_together_as_in_photographs() -> None:
    pictures = natural_images(16, 3, 48, 48, np.random.default_rng(1)).transpose(1, 0, 2, 3).reshape(3, -1)
    red_green, red_blue, green_blue = np.corrcoef(pictures)[[0, 0, 1], [1, 2, 2]]
    assert min(red_green, green_blue) > red_blue > 0.5


def test_the_spectrum_falls_as_one_over_f() -> None:
    fields = one_over_f((64, 128, 128), np.random.default_rng(2))
    amplitude = np.abs(np.fft.fft2(fields)).mean(0)
    low, high = amplitude[0, 4], amplitude[0, 32]
    assert low / high == pytest.approx(8.0, rel=0.15)  # 64 fields leave a few per cent of chance
    np.testing.assert_allclose(fields.mean((1, 2)), 0.0, atol=1e-12)
    np.testing.assert_allclose(fields.std((1, 2)), 1.0, rtol=1e-9)


def test_the_same_seed_gives_the_same_bytes_and_two_channels_are_refused() -> None:
    one, other = (natural_images(2, 3, 16, 16, np.random.default_rng(3)) for _ in range(2))
    assert one.tobytes() == other.tobytes()
    with pytest.raises(ValueError, match="1, 3 or 4 channels, got 2"):
        natural_images(1, 2, 8, 8, np.random.default_rng(0))
