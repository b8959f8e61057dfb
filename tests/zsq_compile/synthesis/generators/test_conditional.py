"""The generators zs-cgan and gdfq on a classifier of plain colours."""

import re
from dataclasses import replace

import pytest
import torch

from tests import models
from tests.zsq_compile.synthesis.colours import SIDE, colour_classifier
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, Listener, seeded, spec, teacher_of
from zsq_compile.config.conditional_generators import ConditionalConfig, GdfqConfig, ZsCganConfig
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.errors import ConfigError, SynthesisError
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.make_generator import make_generator

QUICK = [kind(iterations=50, batch_size=24, latent_size=8, learning_rate=0.01) for kind in (ZsCganConfig, GdfqConfig)]
NAMES = pytest.mark.parametrize("config", QUICK, ids=lambda config: type(config).__name__)


def made(
    config: ConditionalConfig,
    count: int,
    *,
    channels: int = 3,
    fixed: int | None = None,
    seed: int = 0,
    low_pass: float | None = None,
    listener: Listener | None = None,
    ending: str = "logits = Identity(scores)",
) -> tuple[SyntheticSet, float]:
    """The set, and the share of its samples that the teacher takes for what was asked."""
    teacher, statistics = teacher_of(colour_classifier(channels, ending=ending))
    preprocessing = given_preprocessing(channels, input_range=(0.0, 1.0))
    inputs = (spec(fixed, channels, SIDE, SIDE),)
    generator = make_generator(config, inputs, preprocessing, listener, low_pass=low_pass)
    done = generator.synthesize(teacher, statistics, count, seeded(seed))
    seen = teacher.run(done.inputs)["logits"].flatten(1).argmax(1)
    assert done.labels is not None
    return done, float((seen == done.labels).float().mean())


@NAMES
@pytest.mark.parametrize("channels", [1, 3])
def test_the_teacher_sees_what_was_asked_for(config: ConditionalConfig, channels: int) -> None:
    done, right = made(config, 30, channels=channels)
    assert right > 0.9
    classes = max(channels, 2)
    assert done.labels is not None and done.labels.bincount().tolist() == [30 // classes] * classes
    assert done.inputs["x"].shape == (30, channels, SIDE, SIDE) and done.inputs["x"].dtype == torch.float32
    assert done.inputs["x"].min() >= 0.0 and done.inputs["x"].max() <= 1.0
    assert done.algorithm == {"ZsCganConfig": "zs-cgan", "GdfqConfig": "gdfq"}[type(config).__name__]
    assert len(done.loss_curve) == 50 and done.loss_curve[-1] < done.loss_curve[0] / 2


@NAMES
def test_a_class_is_also_recognised_where_it_is_asked_for_alone(config: ConditionalConfig) -> None:
    done, right = made(replace(config, classes=(2,)), 30)
    assert done.labels is not None and set(done.labels.tolist()) == {2}
    assert right > 0.9
    both, right = made(replace(config, classes=(2, 0)), 31)
    assert both.labels is not None and sorted(both.labels.bincount(minlength=3).tolist()) == [0, 15, 16]
    assert right > 0.9


@NAMES
def test_a_network_that_ends_in_probabilities_is_learned_as_well(config: ConditionalConfig) -> None:
    _, right = made(config, 30, ending="logits = Softmax(scores)")
    assert right > 0.8  # a third by chance; threads add in different orders, and three of thirty were missed once


@NAMES
def test_the_same_seed_gives_the_same_bytes(config: ConditionalConfig) -> None:
    (first, _), (again, _), (other, _) = (made(replace(config, iterations=3), 7, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.inputs["x"], again.inputs["x"]) and first.loss_curve == again.loss_curve
    assert torch.equal(first.labels, again.labels) and first.seed == 1
    assert not torch.equal(first.inputs["x"], other.inputs["x"])


@NAMES
def test_what_made_the_set_can_go_on(config: ConditionalConfig) -> None:
    done, _ = made(config, 12)
    assert done.trainer is not None
    assert (done.trainer.scores, done.trainer.classes) == ("logits", 3)
    batch = done.trainer.step(24, seeded(4))
    assert batch.loss < done.loss_curve[0] / 2, "it goes on where it was, and does not start anew"


def test_a_network_that_takes_a_fixed_batch_gets_full_ones() -> None:
    listener = Listener()
    done, _ = made(replace(QUICK[0], iterations=2, batch_size=9), 6, fixed=4, listener=listener)
    assert done.inputs["x"].shape[0] == 6 == len(done.labels)
    assert listener.steps == [(2, 2)]


def test_a_filter_behind_it_leaves_labels_and_source() -> None:
    done, _ = made(replace(QUICK[0], iterations=1), 6, low_pass=0.3)
    assert done.algorithm == "zs-cgan, low-pass" and done.labels is not None and done.trainer is not None


def test_many_pixels_that_are_cut_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    made(replace(QUICK[0], iterations=1), 6, listener=listener)
    cut = "% of the pixels that zs-cgan made"
    assert not any(cut in warning for warning in listener.warnings)
    bright = given_preprocessing(3, mean=(0.95,), std=(0.5,))
    monkeypatch.setattr(
        "zsq_compile.synthesis.generators.image_networks.imagenet_preprocessing", lambda channels: bright
    )
    made(replace(QUICK[0], iterations=1), 6, listener=listener)
    assert sum(cut in warning for warning in listener.warnings) == 1


def test_a_class_that_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"asks for class 3, and the network has 3, .* from 0 to 2"):
        made(replace(QUICK[0], classes=(0, 3)), 6)


@NAMES
def test_without_statistics_there_is_nothing_to_match(config: ConditionalConfig) -> None:
    teacher, _ = teacher_of(models.residual())
    with pytest.raises(SynthesisError, match=r"needs BatchNormalization statistics.*use --generator prior"):
        make_generator(config, (spec(None, 3, 8, 8),)).synthesize(teacher, NO_STATISTICS, 4, seeded())


@NAMES
def test_what_is_no_classifier_is_refused(config: ConditionalConfig) -> None:
    teacher, statistics = teacher_of(models.conv_bn_relu())
    preprocessing = given_preprocessing(3, input_range=(0.0, 1.0))
    with pytest.raises(SynthesisError, match=r"generator needs an output of shape \(N, classes\), got"):
        make_generator(config, (spec(None, 3, 8, 8),), preprocessing).synthesize(teacher, statistics, 4, seeded())


@NAMES
def test_inputs_that_are_no_pictures_are_refused(config: ConditionalConfig) -> None:
    with pytest.raises(SynthesisError, match=r"images of 1, 3 or 4 channels, and input 'x' .* use --generator pixels"):
        make_generator(config, (spec(None, 6),))


def test_a_network_too_large_for_the_effort_is_refused_with_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsq_compile.synthesis.budget._ELEMENTS_PER_SECOND", 1.0)
    with pytest.raises(
        SynthesisError, match=r"zs-cgan starts from nothing .* at least, more than the effort 'balanced'"
    ):
        made(ZsCganConfig(), 4)


@pytest.mark.parametrize("kind", [ZsCganConfig, GdfqConfig])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch_size": 1}, "generator.batch_size must be a whole number of at least 2, got 1"),
        ({"iterations": 0}, "generator.iterations must be a whole number"),
        ({"latent_size": 0}, "generator.latent_size"),
        ({"learning_rate": 0.0}, "generator.learning_rate"),
        ({"class_weight": -1.0}, "generator.class_weight"),
        ({"bn_weight": -1.0}, "generator.bn_weight"),
        ({"distance": "l1"}, "generator.distance must be one of kl, moments, got 'l1'"),
        ({"embedded_classes": -1}, "generator.embedded_classes"),
        ({"classes": ()}, "needs numbers of classes, counted from 0, got []"),
        ({"classes": (1, -1)}, "needs numbers of classes, counted from 0, got [1, -1]"),
        ({"classes": (1, 1)}, "names a class twice, got [1, 1]"),
    ],
)
def test_wrong_settings_are_refused(kind: type[ConditionalConfig], values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        kind(**values)
