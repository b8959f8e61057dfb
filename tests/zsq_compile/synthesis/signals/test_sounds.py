import math

import numpy as np
import pytest
import torch

from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.data.preprocessing import SignalFamily
from zsq_compile.synthesis.signals.background import draw_noises
from zsq_compile.synthesis.signals.draw import other_families, signals
from zsq_compile.synthesis.signals.mel import cepstrum, mel_filters, mel_powers
from zsq_compile.synthesis.signals.music import harmonics
from zsq_compile.synthesis.signals.segments import draw_segments, glide, hold
from zsq_compile.synthesis.signals.sound import WINDOWS, draw_sounds
from zsq_compile.synthesis.signals.speech import draw_speech, filter_resonances

RATE = 16000.0
SHAPES: list[tuple[SignalFamily, tuple[int, ...]]] = [
    ("sound", (5, 576)),
    ("levelled", (3, 1, 1024)),
    ("speech", (2, 20000)),
    ("music", (2, 3, 400)),
    ("noises", (2, 700)),
    ("log_mel", (4, 1, 49, 10)),
    ("log_mel", (3, 80, 30)),
    ("mfcc", (3, 98, 13)),
    ("mel", (2, 40, 40)),
    ("log_spectrum", (2, 1, 20, 257)),
    ("embedding", (4, 16, 96)),
    ("embedding", (4, 32)),
    ("positive", (4, 16, 96)),
    ("rows", (6, 12)),
]


@pytest.mark.parametrize(("family", "shape"), SHAPES)
def test_signals_of_a_family_have_the_shape_asked_for_and_are_repeatable(
    family: SignalFamily, shape: tuple[int, ...]
) -> None:
    made = signals(shape, family, seeded(1))
    assert made.shape == shape
    assert torch.isfinite(made).all()
    assert torch.equal(made, signals(shape, family, seeded(1)))
    assert not torch.equal(made, signals(shape, family, seeded(2)))


def test_a_resonance_makes_the_spectrum_peak_at_its_frequency() -> None:
    white = torch.randn(2, 16000, generator=seeded())
    centres = torch.tensor([500.0, 2200.0]).view(2, 1, 1).expand(2, 1, 10)
    made = filter_resonances(white, centres, torch.full((1, 1, 1), 80.0), RATE)
    spectrum = torch.stft(made, 1024, window=torch.hann_window(1024), return_complex=True).abs().square().mean(2)
    peaks = spectrum.argmax(1) * RATE / 1024
    assert (peaks - torch.tensor([500.0, 2200.0])).abs().max() < 50.0
    # a resonator with poles at the centre and 80 Hz wide has a gain of centre / width over that at frequency 0
    gain = (spectrum.amax(1) / spectrum[:, 1:6].mean(1)).sqrt()
    assert 0.5 < float(gain[0] / (500.0 / 80.0)) < 1.5


def test_speech_has_pauses_pitch_and_most_of_its_energy_below_four_kilohertz() -> None:
    made = draw_speech(12, 32000, RATE, seeded(3))
    torch.testing.assert_close(made.std(1, correction=0), torch.ones(12), atol=1e-3, rtol=0.0)
    frames = made.reshape(12, -1, 320).std(2)
    assert (frames < 0.1).float().mean() > 0.05
    spectrum = torch.fft.rfft(made).abs().square()
    below = spectrum[:, : spectrum.shape[1] // 2].sum(1) / spectrum.sum(1)
    assert below.mean() > 0.7
    # voiced frames repeat themselves after a period of 50 to 600 Hz
    loudest = made.reshape(12, -1, 1600)[torch.arange(12), made.reshape(12, -1, 1600).std(2).argmax(1)]
    correlation = torch.fft.irfft(torch.fft.rfft(loudest, 4096).abs().square())[:, : 1600 // 2]
    period = correlation[:, int(RATE / 600) : int(RATE / 50)].amax(1) / correlation[:, 0]
    assert period.median() > 0.4


def test_harmonics_are_summed_in_closed_form() -> None:
    phase = torch.linspace(0.0, 6.0, 50, dtype=torch.float64)
    for decay in (0.0, 0.3, 0.8):
        wanted = sum(decay ** (k - 1) * torch.sin(k * phase) for k in range(1, 200))
        torch.testing.assert_close(harmonics(phase, torch.tensor(decay, dtype=torch.float64)), wanted)


def test_levels_spread_over_thirty_decibels_and_stay_inside_full_scale() -> None:
    made = draw_sounds(40, 32000, seeded(), "speech")
    assert made.abs().max() <= 1.0
    level = 20 * made.std(1).log10()
    assert 20.0 < float(level.max() - level.min()) < 32.0
    assert -45.0 < float(level.min()) < float(level.max()) < -12.0
    assert draw_sounds(4, 16000, seeded(), "silence").std(1).max() < 2e-3


def test_short_windows_follow_one_another_in_a_sound() -> None:
    made = draw_sounds(WINDOWS * 6, 576, seeded(), "music")
    last, first = made[:-1, -1], made[1:, 0]
    step = (made[:, 1:] - made[:, :-1]).abs().mean(1)
    jumps = ((first - last).abs() / step[1:].clamp_min(1e-6)).reshape(-1)
    inside = torch.arange(1, len(made)) % WINDOWS != 0
    assert jumps[inside].median() < 2.0
    assert jumps[~inside].median() > 3.0


def test_noise_has_hum_at_the_mains_in_some_samples() -> None:
    made = draw_noises(40, 16000, RATE, seeded())
    spectrum = torch.fft.rfft(made).abs()
    share = torch.maximum(spectrum[:, 50], spectrum[:, 60]) / spectrum[:, 1:300].median(1).values
    assert 4 <= int((share > 100).sum()) <= 18


def test_mel_filters_are_those_of_numpy() -> None:
    bands, size = 26, 512
    edges = 700.0 * (10 ** (np.linspace(0, 2595 * math.log10(1 + 8000 / 700), bands + 2) / 2595) - 1)
    mel = lambda hz: 2595 * np.log10(1 + hz / 700)  # noqa: E731
    frequency = np.arange(size // 2 + 1) * RATE / size
    wanted = np.zeros((bands, size // 2 + 1))
    for band in range(bands):
        low, centre, high = mel(edges[band : band + 3])
        wanted[band] = np.interp(mel(frequency), [low, centre, high], [0, 1, 0])
    made = mel_filters(bands, size, RATE).numpy()
    filled = wanted.sum(1) > 0
    np.testing.assert_allclose(made[filled], wanted[filled], atol=1e-5)
    assert (made.sum(1) > 0).all()


def test_a_tone_lights_the_band_that_it_lies_in() -> None:
    times = torch.arange(16000) / RATE
    tones = torch.stack([torch.sin(2 * math.pi * hz * times) for hz in (300.0, 1000.0, 4000.0)])
    found = mel_powers(tones, 100, 40, RATE).mean(1).argmax(1)
    top = 2595 * math.log10(1 + 8000 / 700)
    wanted = [2595 * math.log10(1 + hz / 700) / top * 41 - 1 for hz in (300.0, 1000.0, 4000.0)]
    assert (found - torch.tensor(wanted)).abs().max() <= 1.0


def test_a_cepstrum_keeps_what_an_orthonormal_transform_keeps() -> None:
    values = torch.randn(2, 5, 24, generator=seeded())
    torch.testing.assert_close(cepstrum(values, 24).square().sum(), values.square().sum())
    flat = cepstrum(torch.ones(1, 1, 24), 13)
    wanted = torch.zeros(13)
    wanted[0] = 24.0**0.5
    torch.testing.assert_close(flat[0, 0], wanted, atol=1e-5, rtol=0.0)


def test_spectrograms_are_standard_and_have_bands_where_the_shape_has_them() -> None:
    made = signals((8, 40, 30), "log_mel", seeded())
    assert abs(float(made.mean())) < 1e-3
    assert abs(float(made.std()) - 1.0) < 1e-2
    turned = signals((8, 80, 37), "log_mel", seeded())
    down, across = ((turned.diff(dim=dim).abs().mean()) for dim in (1, 2))
    assert down != across


def test_sequences_change_slowly_and_positive_ones_have_zeros() -> None:
    made = signals((32, 16, 48), "embedding", seeded())
    assert abs(float(made.std()) - 1.0) < 0.05
    centred = made - made.mean((0, 1))
    neighbours = (centred[:, 1:] * centred[:, :-1]).mean() / centred.square().mean()
    assert neighbours > 0.4
    positive = signals((32, 16, 48), "positive", seeded())
    assert positive.min() == 0.0
    assert 0.2 < float((positive == 0).float().mean()) < 0.8
    assert abs(float(positive.square().mean().sqrt()) - 1.0) < 1e-3


def test_segments_are_held_and_glide() -> None:
    segments = draw_segments(2, 50, 5.0, seeded())
    assert (segments.diff(dim=1) >= 0).all()
    assert 3 < int(segments.max()) < 25
    held = hold(torch.arange(60.0).view(1, 1, 60).expand(2, 1, 60), segments)
    assert torch.equal(held[:, 0], segments.float())
    step = glide(torch.tensor([[[0.0, 0.0, 3.0, 3.0, 3.0]]]), 3)
    torch.testing.assert_close(step[0, 0], torch.tensor([0.0, 1.0, 2.0, 3.0, 3.0]))


@pytest.mark.parametrize("family", ["sound", "levelled", "log_mel", "mfcc", "embedding", "positive", "rows", "white"])
def test_other_families_are_others_at_about_the_same_scale(family: SignalFamily) -> None:
    own = signals((32, 20, 40), family, seeded()).square().mean().sqrt()
    assert len(set(other_families(family))) >= 2
    for other in other_families(family):
        made = signals((32, 20, 40), other, seeded(1)).square().mean().sqrt()
        assert 0.3 < float(made / own) < 4.0
