import pytest
import torch

from tests.zsq_compile.synthesis.images.test_spectral import slope
from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.synthesis.signals.noise import prior_signals


@pytest.mark.parametrize("shape", [(5,), (4, 3), (6, 42), (3, 2, 64), (2, 5, 8, 16), (2, 20000)])
def test_signals_have_the_shape_asked_for_and_are_repeatable(shape: tuple[int, ...]) -> None:
    signals = prior_signals(shape, seeded(1))
    assert signals.shape == shape
    assert torch.isfinite(signals).all()
    assert torch.equal(signals, prior_signals(shape, seeded(1)))


def test_signals_are_between_white_and_one_over_f_with_levels_around_one() -> None:
    signals = prior_signals((200, 256), seeded())
    assert -1.0 < slope(signals, 1) < -0.1
    assert 0.8 < signals.std() < 1.25
    assert signals.std(1).max() > 1.5 * signals.std(1).min()


def test_waveforms_stay_inside_full_scale_at_many_levels() -> None:
    waves = prior_signals((32, 8192), seeded())
    assert waves.abs().max() <= 1.0
    assert waves.std(1).max() > 10 * waves.std(1).min()
