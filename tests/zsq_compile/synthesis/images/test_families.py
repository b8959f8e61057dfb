import numpy as np
import pytest
import torch

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.synthesis.images.families import family_size, input_families


def spec(*shape, name="x"):
    layout = "NCHW" if len(shape) == 4 else None
    return InputSpec(name=name, shape=shape, dtype=np.dtype(np.float32), layout=layout)


def given(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)):
    return Preprocessing(name="given", mean=mean, std=std, channel_order="rgb", source="given")


def made(inputs, preprocessing, seed=0):
    return input_families(inputs, preprocessing, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ((None, 3, 32, 32), 256),
        ((None, 3, 224, 224), 48),
        ((1, 3, 513, 513), 9),
        ((None, 3, 1080, 1920), 8),
        ((3, 3, 32, 32), 258),
        ((None, 40), 256),
    ],
)
def test_large_inputs_have_fewer_samples_and_fixed_batches_are_filled(shape, count):
    assert family_size([spec(*shape)]) == count


def test_the_same_seed_gives_the_same_bytes_and_another_one_others():
    inputs, preprocessing = [spec(None, 3, 24, 24)], {"x": given()}
    first, again, other = made(inputs, preprocessing), made(inputs, preprocessing), made(inputs, preprocessing, seed=1)
    assert list(first) == ["prior", "high contrast", "low contrast", "joined halves"]
    for name in first:
        assert torch.equal(first[name]["x"], again[name]["x"])
        assert not torch.equal(first[name]["x"], other[name]["x"])


def test_pictures_are_pixels_under_the_contract():
    told = given(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    families = made([spec(None, 3, 24, 24)], {"x": told})
    contrast = {}
    for name, inputs in families.items():
        pixels = told.decode(inputs["x"])
        assert inputs["x"].dtype == torch.float32
        # the preprocessing is undone in float32: an ulp or two beyond the ends
        assert pixels.min() > -1e-5
        assert pixels.max() < 1 + 1e-5
        contrast[name] = float(pixels.std((1, 2, 3)).mean())
    # half the contrast, exactly; 1.7 times it, less what is cut at black and white
    assert contrast["low contrast"] == pytest.approx(0.5 * contrast["prior"], rel=1e-4)
    assert 1.3 * contrast["prior"] < contrast["high contrast"] <= 1.7 * contrast["prior"] * 1.0001


def test_halves_come_from_two_pictures():
    told = given()
    families = made([spec(None, 3, 24, 24)], {"x": told})
    whole, joined = families["prior"]["x"], families["joined halves"]["x"]
    assert torch.equal(joined[..., :12], whole[..., :12])
    assert torch.equal(joined[1:, ..., 12:], whole[:-1, ..., 12:])


def test_every_input_gets_its_own_kind():
    inputs = [spec(None, 3, 16, 16, name="picture"), spec(None, 12, name="vector")]
    families = made(inputs, {"picture": given()})
    for arrays in families.values():
        assert arrays["picture"].shape == (256, 3, 16, 16)
        assert arrays["vector"].shape == (256, 12)
    assert torch.equal(families["low contrast"]["vector"], 0.5 * families["prior"]["vector"])


def scaled(family, gain=1.0):
    return Preprocessing(
        name="scaled", mean=(0.0,), std=(1.0 / gain,), channel_order="none", source="assumed", family=family
    )


def test_sounds_are_judged_on_other_sounds_at_full_scale():
    families = {name: one["x"] for name, one in made([spec(None, 576)], {"x": scaled("sound", 100.0)}).items()}
    for values in families.values():
        assert values.shape == (256, 576)
        assert 1.0 < values.abs().max() <= 100.0 * 1.0001
    # music in its own levels, at half of them, and not half of what calibration hears
    assert not torch.equal(families["low contrast"], 0.5 * families["prior"])
    assert not torch.equal(families["joined halves"][..., :288], families["prior"][..., :288])


def test_features_are_judged_on_signals_without_their_correlation():
    families = made([spec(None, 16, 32)], {"x": scaled("embedding", 16.0)})
    prior, quiet = (families[name]["x"] for name in ("prior", "low contrast"))  # the latter: white noise

    def likeness(values):
        return float((values[:, 1:] * values[:, :-1]).mean() / values.square().mean())

    assert likeness(prior) > 0.4
    assert abs(likeness(quiet)) < 0.05
    assert float(quiet.std()) == pytest.approx(0.5 * 16.0, rel=0.05)
