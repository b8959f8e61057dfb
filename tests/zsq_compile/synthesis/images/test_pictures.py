from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.images.pictures import FAMILIES, PictureFamily, draw_family, draw_pictures

SHAPES = [(1, 28, 28), (3, 40, 17), (4, 12, 90), (3, 4, 4)]


def spec(channels: int = 3, height: int = 24, width: int = 32) -> InputSpec:
    return InputSpec(name="x", shape=(None, channels, height, width), dtype=np.dtype(np.float32), layout="NCHW")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("channels", "height", "width"), SHAPES)
def test_any_size_and_channels_in_the_unit_range(family: PictureFamily, channels: int, height: int, width: int) -> None:
    pictures = draw_family(family, 3, channels, height, width, seeded())
    assert pictures.shape == (3, channels, height, width)
    assert pictures.dtype == torch.float32
    assert torch.isfinite(pictures).all()
    assert pictures.min() >= 0.0 and pictures.max() <= 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_pictures_and_another_does_not(family: PictureFamily) -> None:
    first, again, other = (draw_family(family, 4, 3, 32, 48, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({picture.numpy().tobytes() for picture in first}) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_gray_is_the_brightness_of_the_colours(family: PictureFamily) -> None:
    colour, gray, four = (draw_family(family, 2, channels, 24, 40, seeded(5)) for channels in (3, 1, 4))
    torch.testing.assert_close(gray, colour.mean(1, keepdim=True))
    torch.testing.assert_close(four, torch.cat([colour, gray], 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_two_channels_are_refused(family: PictureFamily) -> None:
    with pytest.raises(ValueError, match="got 2"):
        draw_family(family, 1, 2, 8, 8, seeded())


def test_writing_has_two_brightnesses_and_thin_strokes() -> None:
    lines = draw_family("text lines", 32, 1, 48, 320, seeded())
    two_peaked, thin = 0, 0
    for line in lines[:, 0]:
        values = line[:, : int(320 * 0.95)].flatten()
        threshold = otsu(values)
        low, high = values[values <= threshold], values[values > threshold]
        between = (high.mean() - low.mean()) ** 2 * len(low) * len(high) / len(values) ** 2
        two_peaked += bool(between > 0.6 * values.var())
        # Strokes are thin: nothing of the rarer side is left where a window of 17 pixels must be all of it.
        rare = (line <= threshold) if len(low) < len(high) else (line > threshold)
        thin += bool(-functional.max_pool2d(-rare[None].float(), 17, 1).amax() < -0.5) is False
    assert two_peaked >= 24
    photographs = prior_images(32, 1, 48, 320, seeded())[:, 0]
    assert np.median([separation(one) for one in lines[:, 0]]) > np.median([separation(one) for one in photographs])


def otsu(values: torch.Tensor) -> float:
    """Threshold with the largest variance between what is below and above."""
    levels = torch.linspace(float(values.min()), float(values.max()), 64)[1:-1]
    below = (values[None] <= levels[:, None]).float()
    share = below.mean(1)
    low = (below * values).mean(1) / share.clamp_min(1e-9)
    high = ((1 - below) * values).mean(1) / (1 - share).clamp_min(1e-9)
    return float(levels[(share * (1 - share) * (high - low) ** 2).argmax()])


def separation(picture: torch.Tensor) -> float:
    """Share of a picture's variance that two levels explain."""
    threshold = otsu(picture.flatten())
    low, high = picture[picture <= threshold], picture[picture > threshold]
    return float((high.mean() - low.mean()) ** 2 * len(low) * len(high) / picture.numel() ** 2 / picture.var())


def test_strokes_are_light_signs_in_the_middle_of_black_for_the_most_part() -> None:
    signs = draw_family("strokes", 64, 1, 28, 28, seeded())
    border = torch.cat([signs[..., :2].flatten(1), signs[..., -2:].flatten(1)], 1).mean(1)
    middle = signs[..., 8:20, 8:20].amax((1, 2, 3))
    assert (border < 0.05).float().mean() > 0.5
    assert (middle > 0.8).float().mean() > 0.6
    assert (signs < 0.02).float().mean() > 0.4


def test_people_and_things_have_scales_from_a_thirtieth_to_the_whole() -> None:
    """What a family puts over its background, which is photographs of the same seed after one draw."""
    for family in ("faces", "objects"):
        sizes = []
        for seed in range(24):
            rng = seeded(seed)
            torch.randint(1 << 31, (), generator=rng)
            background = prior_images(1, 3, 96, 96, rng)
            picture = draw_family(family, 1, 3, 96, 96, seeded(seed))
            sizes.append(float(((picture - background).abs().amax(1) > 0.15).float().mean()))
        assert min(sizes) < 0.25
        assert max(sizes) > 0.5


def test_a_mixture_has_its_shares_and_photographs_alone_stay_as_they_are() -> None:
    assert torch.equal(draw_pictures(spec(), 5, seeded()), prior_images(5, 3, 24, 32, seeded()))
    shares = {"photographs": 0.5, "faces": 0.25, "strokes": 0.25}
    drawn = draw_pictures(spec(), 16, seeded(), shares)
    assert drawn.shape == (16, 3, 24, 32)
    rng = seeded()
    torch.randperm(16, generator=rng)  # the order of the families
    parts = {
        family: draw_family(family, int(16 * shares[family]), 3, 24, 32, rng) for family in FAMILIES if family in shares
    }
    found = Counter(
        family for one in drawn for family, part in parts.items() for made in part if torch.equal(one, made)
    )
    assert found == {"photographs": 8, "faces": 4, "strokes": 4}
