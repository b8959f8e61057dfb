"""Networks whose batch normalisation is folded away: what is left of the truth."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from passes.batchnorm.fold_batchnorm import FoldBatchNorm
from passes.constants import constant_value
from tests import models
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, Listener, seeded, spec, teacher_of, trained_on
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.preprocessing.conventions import all_conventions, channel_orders, conventions
from zsq_compile.synthesis.preprocessing.evidence import look_inside
from zsq_compile.synthesis.preprocessing.find import find_preprocessing, rank_on_examples
from zsq_compile.synthesis.preprocessing.interior import watch_interior
from zsq_compile.synthesis.preprocessing.likelihood import Trust, count_telling
from zsq_compile.synthesis.preprocessing.rank import find_contradiction, rank_candidates, showing
from zsq_compile.synthesis.preprocessing.toolkits import find_prior_odds, toolkits
from zsq_compile.synthesis.preprocessing.trial_families import other_families
from zsq_compile.synthesis.preprocessing.trials import TrialNetwork

RGB = spec(None, 3, 20, 20)
SCALES = {one.name: one for one in conventions(RGB)}


def tried(model: ir.Model, draw: Callable[[int, int, int], NDArray[np.float32]] | None = None) -> TrialNetwork:
    rng = seeded()
    return TrialNetwork(
        model=model,
        spec=RGB,
        draw_images=draw or (lambda count, height, width: prior_images(count, 3, height, width, rng).numpy()),
        others={},
    )


def folded(name: str, depth: int = 8) -> ir.Model:
    """A network that was trained under a convention, without its statistics."""
    model = ir.from_proto(_trained(name, depth))
    FoldBatchNorm().call(model)
    return model


@cache
def _trained(name: str, depth: int) -> onnx.ModelProto:
    pictures = prior_images(48, 3, 20, 20, seeded(99)).numpy()
    return trained_on(SCALES[name].preprocessing(RGB, "rgb").encode(pictures), depth)


@pytest.mark.parametrize("name", ["unit", "imagenet", "byte", "byte_bgr"])
def test_a_folded_network_tells_its_convention_from_its_layers(name: str) -> None:
    found = rank_candidates(tried(folded(name)), NO_STATISTICS)
    assert name in [one.preprocessing.name for one in found.plausible]
    raw = [one.preprocessing.name in ("byte", "byte_bgr") for one in found.plausible]
    assert all(raw) if "byte" in name else not any(raw), "contrasts that are 60 times apart cannot be mixed up"
    assert sum(one.probability for one in found.hypotheses) == pytest.approx(1.0)


@pytest.mark.parametrize("make", [models.residual, models.depthwise], ids=["residual", "depthwise"])
@pytest.mark.parametrize("seed", range(4))
def test_a_network_that_was_not_trained_stays_open(make: Callable[..., onnx.ModelProto], seed: int) -> None:
    """No convention is right for it, so none may be called the only plausible one, nor come near to that."""
    found = rank_candidates(tried(ir.from_proto(make(seed=seed))), NO_STATISTICS)
    assert found.is_open and not found.best.is_proven
    assert found.plausible[0].probability < 0.8


def test_a_deep_network_is_believed_and_with_its_numbers_in_random_order_it_is_not() -> None:
    model = folded("unit")
    found = rank_candidates(tried(model), NO_STATISTICS)
    assert (found.best.name, found.best.source, found.is_open) == ("unit", "ranked", False)
    assert not (found.best.is_proven or found.best.is_certain), "a ranking proves nothing"
    rng = np.random.default_rng(0)
    for one in model.graph.initializers.values():
        numbers = constant_value(one)
        assert numbers is not None
        one.const_value = ir.tensor(rng.permutation(numbers.reshape(-1)).reshape(numbers.shape), name=one.name)
    assert rank_candidates(tried(model), NO_STATISTICS).plausible[0].probability < 0.8


def test_likelihoods_count_by_the_number_of_layers_and_never_below_the_floor() -> None:
    """Closed form: (e^L + e^floor)^(layers / full), the power at most 1."""
    trust, logs = Trust(layers=8, floor=1.0), np.array([-50.0, 0.0, 2.0])
    for layers, power in ((0, 0.0), (4, 0.5), (8, 1.0), (40, 1.0)):
        wanted = power * np.log(np.exp(logs) + np.exp(1.0))
        np.testing.assert_allclose(trust.temper(logs, layers), wanted, rtol=1e-12)


def test_layers_without_a_bias_tell_nothing() -> None:
    text = "net (float[N,3,20,20] x) => (float[N,4,20,20] y) <float[4,3,1,1] w, float[4] b> { y = Conv(x, w, b) }"
    for bias, count in ((np.zeros(4), 0), (np.ones(4), 1)):
        interior = watch_interior(tried(ir.from_proto(models.parse(text, weights={"b": bias}))))
        assert interior is not None
        assert count_telling(interior.layers) == count


def test_what_is_left_of_a_mean_and_of_its_bias_are_measured() -> None:
    """One layer on inputs of mean 2 and deviation 1, with a bias that takes all but a tenth of its mean away."""
    rng = np.random.default_rng(0)
    text = "net (float[N,3,20,20] x) => (float[N,4,20,20] y) <float[4,3,1,1] w, float[4] b> { y = Conv(x, w, b) }"
    weights = rng.normal(size=(4, 3, 1, 1))
    pictures = rng.normal(2.0, 1.0, size=(8, 3, 20, 20)).astype(np.float32)
    made = np.einsum("nchw,kc->nkhw", pictures, weights[..., 0, 0])
    mean, deviation = made.mean((0, 2, 3)), made.std((0, 2, 3))
    model = ir.from_proto(models.parse(text, weights={"w": weights, "b": -0.9 * mean}))
    interior = watch_interior(tried(model, lambda count, height, width: pictures[:count, :, :height, :width]))
    assert interior is not None
    found = interior.describe(SCALES["unit"].preprocessing(RGB, "rgb"))
    floor = 0.05 * deviation**2
    centred = np.log1p((0.1 * mean / deviation) ** 2).mean()
    left = np.log(((0.1 * mean) ** 2 + floor) / ((0.9 * mean) ** 2 + floor)).mean()
    np.testing.assert_allclose(found, [0, 0, 0, centred + left, np.log(centred + 0.1) ** 2, 0, 0], rtol=1e-4)


def test_numbers_that_overflow_describe_nothing() -> None:
    text = "net (float[N,3,20,20] x) => (float[N,4,20,20] y) <float[4,3,1,1] w> { e = Exp(x) y = Conv(e, w) }"
    interior = watch_interior(tried(ir.from_proto(models.parse(text))))
    assert interior is not None
    assert interior.describe(SCALES["byte"].preprocessing(RGB, "rgb")) is None
    assert interior.describe(SCALES["unit"].preprocessing(RGB, "rgb")) is not None


@pytest.mark.parametrize(("ends", "warned"), [((0.0, 255.0), True), ((0.0, 1.0), False)])
def test_a_given_preprocessing_is_held_against_a_folded_network(ends: tuple[float, float], *, warned: bool) -> None:
    given = given_preprocessing(3, input_range=ends)
    other = find_contradiction(tried(folded("unit")), NO_STATISTICS, given)
    assert (other is not None) is warned
    listener = Listener()
    find_preprocessing([RGB], given, TorchGraph(folded("unit")), NO_STATISTICS, seeded(), listener)
    assert any("contradicts" in text for text in listener.warnings) is warned


def test_the_only_plausible_one_is_warned_of_as_long_as_nothing_proves_it() -> None:
    listener = Listener()
    (found,) = find_preprocessing([RGB], None, TorchGraph(folded("unit")), NO_STATISTICS, seeded(), listener).values()
    assert not found.is_open
    assert "ranked" in listener.warnings[0] and "--like" in listener.warnings[0]


def test_real_pictures_prove_the_only_plausible_one() -> None:
    pictures = np.rint(255 * prior_images(4, 3, 20, 20, seeded(3)).numpy()).astype(np.uint8)
    teacher = TorchGraph(folded("unit"))
    found = rank_on_examples(pictures, RGB, [RGB], teacher, NO_STATISTICS, seeded(), 4)
    assert (found.best.name, found.best.source, found.is_open) == ("unit", "inferred", False)


def test_an_open_posterior_is_told_with_all_that_is_plausible() -> None:
    text = "net (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,3,3] w> { y = Conv<pads=[1,1,1,1]>(x, w) }"
    teacher, _ = teacher_of(models.parse(text))
    listener, one = Listener(), spec(None, 3, 8, 8)
    (found,) = find_preprocessing([one], None, teacher, NO_STATISTICS, seeded(), listener).values()
    assert found.is_open and found.best.source == "assumed"
    for number, hypothesis in enumerate(found.plausible):
        assert hypothesis.preprocessing.name in listener.warnings[0], number
    for option in ("--mean", "--input-range", "--like"):
        assert option in listener.warnings[0]


@pytest.mark.parametrize(("channels", "height", "width", "count"), [(3, 20, 20, 0), (1, 20, 20, 1), (1, 16, 64, 2)])
def test_gray_and_wide_inputs_are_tried_on_signs_and_text_lines(
    channels: int, height: int, width: int, count: int
) -> None:
    one = spec(None, channels, height, width)
    families = other_families(one, seeded())
    assert len(families) == count
    for draw in families:
        drawn = draw(3, height, width)
        assert drawn.shape == (3, channels, height, width)
        assert 0.0 <= drawn.min() < drawn.max() <= 1.0


def test_a_candidate_is_as_likely_as_on_average_over_the_kinds_of_pictures() -> None:
    network = tried(folded("unit"))
    pictures = prior_images(16, 3, 20, 20, seeded(5)).numpy()
    kinds = [lambda count, height, width, gain=gain: pictures[:count] * gain for gain in (1.0, 0.3)]
    candidates = [SCALES[name].preprocessing(RGB, "rgb") for name in ("unit", "imagenet", "byte")]
    alone = [look_inside(replace(network, draw_images=draw), candidates) for draw in kinds]
    both = look_inside(replace(network, draw_images=kinds[0]), candidates, kinds[1:])
    np.testing.assert_allclose(both, np.log(np.mean(np.exp(alone), 0)), rtol=1e-6)


def test_real_pictures_take_the_place_of_drawn_ones() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 3, 30, 40), dtype=np.uint8)
    drawn = showing(pictures)(3, 15, 20)
    assert drawn.shape == (3, 3, 15, 20)
    np.testing.assert_allclose(drawn[2], drawn[0])
    blocks = pictures.reshape(2, 3, 15, 2, 20, 2).mean((3, 5)) / 255
    np.testing.assert_allclose(drawn[:2], blocks, atol=1.01 / 255)  # Pillow rounds twice
    black = np.zeros((1, 3, 20, 20), np.uint8)
    assert rank_candidates(tried(folded("unit")), NO_STATISTICS, black).is_open, "black pictures tell nothing"


def test_the_toolkit_gives_odds_and_no_verdict() -> None:
    model = folded("unit")
    assert find_prior_odds(model).toolkits == ()
    before = rank_candidates(tried(model), NO_STATISTICS)
    model.metadata_props["Image.BitmapPixelFormat"] = "Bgr8"
    assert find_prior_odds(model).bgr > 1
    after = rank_candidates(tried(model), NO_STATISTICS)
    assert after.share(bgr=True) > 0.9 > before.share(bgr=True)
    assert after.best.name == before.best.name and after.best.channel_order == "bgr"
    model.metadata_props["Image.NominalPixelRange"] = "NominalRange_0_255"
    assert rank_candidates(tried(model), NO_STATISTICS).best.name == before.best.name, "layers outweigh words"


@pytest.mark.parametrize(
    ("key", "value", "name"), [("author", "Ultralytics", "unit"), ("stride", "32", "unit"), ("other", "32", None)]
)
def test_metadata_is_read(key: str, value: str, name: str | None) -> None:
    model = ir.from_proto(models.residual())
    model.metadata_props[key] = value
    odds = find_prior_odds(model).by_convention
    assert max(odds, key=lambda one: odds[one], default=None) == name


def test_tables_are_whole() -> None:
    names = [one.name for one in all_conventions()]
    assert len(set(names)) == len(names)
    assert all(set(one.odds) <= set(names) for one in toolkits())
    for channels in (1, 3, 4):
        own = spec(None, channels, 8, 8)
        for convention in conventions(own):
            for order in channel_orders(own):
                one = convention.preprocessing(own, order)
                assert len(one.mean) == len(one.std) == channels
                assert min(one.std) > 0 and one.words() != f"{one.name}: "


def test_the_order_of_channels_is_no_doubt_about_the_scale() -> None:
    found = rank_candidates(tried(folded("unit")), NO_STATISTICS)
    both = {one.preprocessing.channel_order for one in found.hypotheses if one.preprocessing.name == "unit"}
    assert both == {"rgb", "bgr"}
    names = [one.preprocessing.name for one in found.plausible]
    assert len(set(names)) == len(names)
    whole: dict[str, float] = {}
    for one in found.hypotheses:
        whole[one.preprocessing.name] = whole.get(one.preprocessing.name, 0.0) + one.probability
    assert found.plausible[0].probability == pytest.approx(max(whole.values()))
