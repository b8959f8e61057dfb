import pytest
import torch
from torch.nn import functional

from tests import models
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, Listener, seeded, spec, teacher_of, trained_on
from zsq_compile.config.genie import GenieConfig
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.errors import ConfigError, SynthesisError
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.generators import genie, image_networks
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.losses import moment_difference
from zsq_compile.synthesis.make_generator import make_generator
from zsq_compile.synthesis.probe import layer_targets, measure_moments

SIDE = 12
UNIT = given_preprocessing(3, input_range=(0.0, 1.0))
PICTURES = (spec(None, 3, SIDE, SIDE),)
CUT = "% of the pixels"


@pytest.fixture(scope="module")
def network() -> models.onnx.ModelProto:
    """Trained on pictures that procedural ones are not: bluish, of half the contrast, and smooth."""
    pictures = functional.avg_pool2d(prior_images(32, 3, SIDE, SIDE, seeded(99)), 3, 1, 1)
    return trained_on((torch.tensor((0.35, 0.4, 0.5)).view(1, 3, 1, 1) + 0.6 * (pictures - 0.45)).numpy())


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of float32 on every machine; one test turns it back."""
    monkeypatch.setattr("zsq_compile.differentiable.precision._multiplies_bfloat16", lambda: False)


def loss_of(network: models.onnx.ModelProto, values: torch.Tensor) -> float:
    """Sum over layers, measured on all samples at once."""
    teacher, statistics = teacher_of(network)
    measured = measure_moments(teacher, statistics.usable, {"x": values}, len(values))
    targets = layer_targets(statistics.usable, teacher.device)
    pairs = zip(measured, targets, strict=True)
    return sum(float(moment_difference(one, other).mean()) for one, other in pairs)


def made(
    network: models.onnx.ModelProto,
    config: GenieConfig,
    count: int,
    *,
    fixed: int | None = None,
    seed: int = 0,
    listener: Listener | None = None,
) -> SyntheticSet:
    teacher, statistics = teacher_of(network)
    generator = make_generator(config, (spec(fixed, 3, SIDE, SIDE),), UNIT, listener)
    return generator.synthesize(teacher, statistics, count, seeded(seed))


@pytest.mark.parametrize("swing", [True, False])
def test_the_statistics_come_ten_times_nearer_than_those_of_noise(network: models.onnx.ModelProto, swing: bool) -> None:
    values = made(network, GenieConfig(iterations=40, swing=swing), 16).inputs["x"]
    noise = (0.5 + 0.25 * torch.randn(16, 3, SIDE, SIDE, generator=seeded())).clamp(0.0, 1.0)
    natural = prior_images(16, 3, SIDE, SIDE, seeded())
    assert loss_of(network, values) < loss_of(network, noise) / 10
    assert loss_of(network, values) < loss_of(network, natural) / 4


def test_what_is_returned_is_what_was_optimised(network: models.onnx.ModelProto) -> None:
    """Without swing and without the images' own term, the last loss is that of the returned pictures."""
    done = made(network, GenieConfig(iterations=10, swing=False, image_weight=0.0), 16)
    assert loss_of(network, done.inputs["x"]) == pytest.approx(done.loss_curve[-1], rel=1e-4)
    assert done.inputs["x"].min() >= 0.0 and done.inputs["x"].max() <= 1.0


def test_a_network_that_takes_few_samples_at_a_time_is_matched_over_the_batch(
    network: models.onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, or in pieces for want of memory: the same mathematics as all at once."""
    config = GenieConfig(iterations=4)
    whole = made(network, config, 16)
    single = made(network, config, 16, fixed=1)
    monkeypatch.setattr("zsq_compile.synthesis.budget._LARGEST_BATCH", 6)
    pieces = made(network, config, 16)
    for other in (single, pieces):
        assert other.loss_curve == pytest.approx(whole.loss_curve, rel=1e-3)
        torch.testing.assert_close(other.inputs["x"], whole.inputs["x"], atol=0.01, rtol=0)


def test_batches_are_even_and_filled_up_and_the_rest_is_cut_off(
    network: models.onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    learn = genie._learn_batch
    monkeypatch.setattr(genie, "_learn_batch", lambda work, *rest: (sizes.append(work.size), learn(work, *rest))[1])
    listener = Listener()
    done = made(network, GenieConfig(iterations=2, batch_size=8), 17, fixed=4, listener=listener)
    assert sizes == [8, 8, 8] and done.inputs["x"].shape[0] == 17
    assert listener.steps == [(6, 6)] and len(done.loss_curve) == 2
    sizes.clear()
    assert made(network, GenieConfig(iterations=1), 1).inputs["x"].shape[0] == 1
    assert sizes == [16], "moments of a single sample are no batch to normalise by"


def test_the_same_seed_gives_the_same_bytes(network: models.onnx.ModelProto) -> None:
    first, again, other = (made(network, GenieConfig(iterations=3), 6, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.inputs["x"], again.inputs["x"]) and first.loss_curve == again.loss_curve
    assert not torch.equal(first.inputs["x"], other.inputs["x"])
    assert (first.seed, first.algorithm) == (1, "genie")


def test_offsets_move_in_every_step_and_only_where_swing_is_wanted(
    network: models.onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    run = TorchGraph.run

    def watched(
        graph: TorchGraph,
        feeds: dict[str, torch.Tensor],
        outputs: tuple[str, ...] | None = None,
        *,
        replace: dict[str, torch.Tensor] | None = None,
        visit: object = None,
    ) -> dict[str, torch.Tensor]:
        seen.extend(tuple(value.tolist()) for value in (replace or {}).values())
        return run(graph, feeds, outputs, replace=replace, visit=visit)

    monkeypatch.setattr(TorchGraph, "run", watched)
    made(network, GenieConfig(iterations=12), 4)
    assert len(seen) == 12 and len(set(seen)) > 3
    seen.clear()
    made(network, GenieConfig(iterations=2, swing=False), 4)
    assert seen == []


def test_pixels_become_what_the_network_expects(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    preprocessing = given_preprocessing(3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    done = make_generator(GenieConfig(iterations=2), PICTURES, preprocessing).synthesize(
        teacher, statistics, 4, seeded()
    )
    pixels = preprocessing.decode(done.inputs["x"])
    assert pixels.min() >= -1e-6 and pixels.max() <= 1.0 + 1e-6
    assert done.preprocessing == {"x": preprocessing}


def test_many_pixels_that_are_cut_are_told(network: models.onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    made(network, GenieConfig(iterations=1), 4, listener=listener)
    assert not any(CUT in warning for warning in listener.warnings)
    bright = given_preprocessing(3, mean=(0.95,), std=(0.5,))
    monkeypatch.setattr(image_networks, "imagenet_preprocessing", lambda channels: bright)
    made(network, GenieConfig(iterations=1), 4, listener=listener)
    assert sum(CUT in warning and "input 'x'" in warning for warning in listener.warnings) == 1


def test_a_strided_convolution_that_cannot_swing_is_told() -> None:
    model = models.parse(
        """
        line (float[N,1,1,9] x) => (float[N,4,1,5] y)
        <float[4,1,1,3] w, float[4] scale, float[4] shift, float[4] mean, float[4] variance>
        { [conv] c = Conv<pads=[0,1,0,1], strides=[1,2]>(x, w)
          [bn] y = BatchNormalization(c, scale, shift, mean, variance) }
        """
    )
    teacher, statistics = teacher_of(model)
    listener = Listener()
    preprocessing = given_preprocessing(1, input_range=(0.0, 1.0))
    generator = make_generator(GenieConfig(iterations=2), (spec(None, 1, 1, 9),), preprocessing, listener)
    assert generator.synthesize(teacher, statistics, 4, seeded()).inputs["x"].shape == (4, 1, 1, 9)
    assert len(listener.notes) == 1
    assert "Conv 'conv' does not swing: its input has a size of 1" in listener.notes[0]


def test_two_pictures_are_made_by_two_networks() -> None:
    model = models.parse(
        """
        two (float[N,3,8,8] left, float[N,1,6,6] right) => (float[N,4,8,8] y, float[N,4,6,6] z)
        <float[4,3,3,3] w0, float[4] scale0, float[4] shift0, float[4] mean0, float[4] variance0,
         float[4,1,3,3] w1, float[4] scale1, float[4] shift1, float[4] mean1, float[4] variance1>
        { c0 = Conv<pads=[1,1,1,1]>(left, w0)
          [bn0] y = BatchNormalization(c0, scale0, shift0, mean0, variance0)
          c1 = Conv<pads=[1,1,1,1]>(right, w1)
          [bn1] z = BatchNormalization(c1, scale1, shift1, mean1, variance1) }
        """
    )
    teacher, statistics = teacher_of(model)
    inputs = (spec(None, 3, 8, 8, name="left"), spec(None, 1, 6, 6, name="right"))
    done = make_generator(GenieConfig(iterations=20), inputs).synthesize(teacher, statistics, 4, seeded())
    assert {name: tuple(value.shape) for name, value in done.inputs.items()} == {
        "left": (4, 3, 8, 8),
        "right": (4, 1, 6, 6),
    }
    assert done.loss_curve[-1] < done.loss_curve[0]


def test_reduced_precision_changes_the_loss_by_its_rounding_only(
    network: models.onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = made(network, GenieConfig(iterations=3), 16).loss_curve
    monkeypatch.setattr("zsq_compile.differentiable.precision._multiplies_bfloat16", lambda: True)
    rounded = made(network, GenieConfig(iterations=3), 16).loss_curve
    assert rounded == pytest.approx(exact, rel=0.05) and rounded != exact


def test_inputs_that_are_no_pictures_are_refused_in_words() -> None:
    with pytest.raises(SynthesisError, match=r"images of 1, 3 or 4 channels, and input 'x' .* use --generator pixels"):
        make_generator(GenieConfig(), (spec(None, 6),))


def test_a_model_without_statistics_is_refused_in_words() -> None:
    teacher, _ = teacher_of(models.residual())
    with pytest.raises(SynthesisError, match="use --generator prior"):
        make_generator(GenieConfig(), (spec(None, 3, 8, 8),), UNIT).synthesize(teacher, NO_STATISTICS, 4, seeded())


def test_a_network_too_large_for_the_effort_is_refused_with_ways_out(
    network: models.onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsq_compile.synthesis.budget._ELEMENTS_PER_SECOND", 1.0)
    with pytest.raises(SynthesisError, match=r"at least, more than the effort 'balanced' .* --generator pixels"):
        made(network, GenieConfig(), 4)
    assert len(made(network, GenieConfig(iterations=1), 4).loss_curve) == 1, "iterations that are given are kept"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch_size": 1}, "generator.batch_size must be a whole number of at least 2, got 1"),
        ({"iterations": 0}, "generator.iterations must be a whole number"),
        ({"latent_size": 0}, "generator.latent_size"),
        ({"latent_learning_rate": 0.0}, "generator.latent_learning_rate"),
        ({"generator_learning_rate": -1.0}, "generator.generator_learning_rate"),
        ({"image_weight": -1.0}, "generator.image_weight"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GenieConfig(**values)
