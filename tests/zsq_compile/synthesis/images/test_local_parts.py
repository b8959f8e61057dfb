import pytest
import torch
from torch.nn import functional

from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.synthesis.images.local_parts import local_parts, resampling


def test_a_part_is_what_torch_s_own_bilinear_sampling_gives() -> None:
    picture = torch.rand(1, 2, 7, 9, generator=seeded(), dtype=torch.float64)
    top, tall, left, wide = (torch.tensor([share], dtype=torch.float64) for share in (0.1, 0.7, 0.3, 0.6))
    got = resampling(top, tall, 7) @ picture @ resampling(left, wide, 9).transpose(1, 2)
    # torch counts a side from -1 to 1: the part's half length, and where its middle lies.
    rows, columns = ((2 * start + length - 1).item() for start, length in ((top, tall), (left, wide)))
    theta = torch.tensor([[[wide.item(), 0.0, columns], [0.0, tall.item(), rows]]], dtype=torch.float64)
    grid = functional.affine_grid(theta, [1, 2, 7, 9], align_corners=False)
    expected = functional.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)
    torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-12)


def test_the_whole_line_is_left_as_it_is() -> None:
    weights = resampling(torch.zeros(1), torch.ones(1), 6)
    torch.testing.assert_close(weights[0], torch.eye(6))


def test_gradients_reach_the_pictures() -> None:
    pictures = torch.rand(3, 1, 4, 5, generator=seeded(), dtype=torch.float64, requires_grad=True)

    def parts(values: torch.Tensor) -> torch.Tensor:
        return local_parts(values, seeded(4), smallest=0.3, share=1.0).square()

    assert torch.autograd.gradcheck(parts, (pictures,))


def test_share_says_how_many_are_changed() -> None:
    pictures = torch.rand(400, 1, 8, 8, generator=seeded())

    def changed(share: float) -> float:
        shown = local_parts(pictures, seeded(1), smallest=0.5, share=share)
        return float((shown != pictures).flatten(1).any(1).float().mean())

    assert changed(0.0) == 0.0
    assert changed(1.0) == 1.0
    assert changed(0.5) == pytest.approx(0.5, abs=0.1)


def test_parts_of_a_slope_have_the_promised_sizes_and_half_are_mirrored() -> None:
    """On pixels that say their own place, the slope of a part is the share of the side that it shows."""
    places = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    pictures = torch.stack([places.expand(64, 64), places[:, None].expand(64, 64)]).expand(300, 2, 64, 64)
    shown = local_parts(pictures, seeded(2), smallest=0.5, share=1.0)
    wide = (shown[:, 0, 32, 40] - shown[:, 0, 32, 24]) * 64 / 16
    tall = (shown[:, 1, 40, 32] - shown[:, 1, 24, 32]) * 64 / 16
    assert (tall > 0).all()
    assert float((wide < 0).double().mean()) == pytest.approx(0.5, abs=0.1)
    area = wide.abs() * tall
    # A part wider or taller than the picture is cut to it, by at most the ratio's root.
    assert area.min() >= 0.5 * (3 / 4) ** 0.5 - 1e-6
    assert area.max() <= 1.0 + 1e-6
    assert area.max() - area.min() > 0.3
