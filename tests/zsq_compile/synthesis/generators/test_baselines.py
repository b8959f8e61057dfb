"""The generators zeroq, dsg and intraq on a tiny network."""

import pytest
import torch
from torch.nn import functional

from tests import models
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, Listener, seeded, spec, task_of, teacher_of, trained_on
from zsq_compile.config.compile import GeneratorConfig
from zsq_compile.config.generators import DsgConfig, IntraqConfig, PriorConfig, ZeroqConfig
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.errors import ConfigError, SynthesisError
from zsq_compile.synthesis.generator import SyntheticSet
from zsq_compile.synthesis.generators.baseline_losses import image_distance, image_targets, layer_image_statistics
from zsq_compile.synthesis.generators.dsg import noise_slacks
from zsq_compile.synthesis.generators.intraq import ClassCentres, confidences
from zsq_compile.synthesis.generators.noise_descent import draw_normalised, run_teacher
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.losses import gaussian_kl
from zsq_compile.synthesis.make_generator import make_generator
from zsq_compile.synthesis.probe import find_features, layer_inputs, layer_targets, measure_moments

UNIT = given_preprocessing(3, input_range=(0.0, 1.0))
PICTURES = (spec(None, 3, 16, 16),)
ALL = [ZeroqConfig(iterations=25), DsgConfig(iterations=25, slack=0.2), IntraqConfig(iterations=25)]


@pytest.fixture(scope="module")
def network() -> models.onnx.ModelProto:
    """Trained on smooth bluish pictures."""
    pictures = functional.avg_pool2d(prior_images(64, 3, 16, 16, seeded(99)), 3, 1, 1)
    return trained_on((torch.tensor((0.35, 0.4, 0.5)).view(1, 3, 1, 1) + 0.6 * (pictures - 0.45)).numpy())


def noise(network: models.onnx.ModelProto, count: int) -> torch.Tensor:
    """What the generators start from, in the network's units."""
    teacher, statistics = teacher_of(network)
    task = task_of(teacher, statistics, PICTURES, {"x": UNIT})
    return task.encode(draw_normalised(task, count, seeded(7)))["x"]


def distance(network: models.onnx.ModelProto, values: torch.Tensor) -> float:
    """How far the whole set's statistics are off, by a loss that no generator here works with."""
    teacher, statistics = teacher_of(network)
    found = measure_moments(teacher, statistics.usable, {"x": values}, len(values))
    pairs = zip(found, layer_targets(statistics.usable, teacher.device), strict=True)
    return float(torch.stack([gaussian_kl(one, other).mean() for one, other in pairs]).mean())


def per_image(network: models.onnx.ModelProto, values: torch.Tensor) -> torch.Tensor:
    teacher, statistics = teacher_of(network)
    layers = statistics.usable
    found = layer_image_statistics(layers, teacher.run({"x": values}, layer_inputs(layers)))
    pairs = zip(found, image_targets(layers, teacher.device), strict=True)
    return torch.stack([image_distance(one, other) for one, other in pairs]).sum(0)


@pytest.fixture(scope="module")
def made(network: models.onnx.ModelProto) -> dict[str, SyntheticSet]:
    """A set of 32 by each."""
    teacher, statistics = teacher_of(network)
    sets = [make_generator(one, PICTURES, UNIT).synthesize(teacher, statistics, 32, seeded()) for one in ALL]
    return {one.algorithm: one for one in sets}


@pytest.mark.parametrize(("name", "factor"), [("zeroq", 4), ("dsg", 2), ("intraq", 3)])
def test_statistics_come_far_nearer_than_those_of_noise(
    name: str, factor: float, network: models.onnx.ModelProto, made: dict[str, SyntheticSet]
) -> None:
    found = made[name]
    assert distance(network, found.inputs["x"]) < distance(network, noise(network, 32)) / factor
    assert len(found.loss_curve) == 25
    assert found.loss_curve[-1] < found.loss_curve[0] / 2


def test_zeroq_brings_every_single_image_nearer_and_slack_less_so(
    network: models.onnx.ModelProto, made: dict[str, SyntheticSet]
) -> None:
    exact, slack = (per_image(network, made[name].inputs["x"]) for name in ("zeroq", "dsg"))
    assert exact.max() < per_image(network, noise(network, 32)).median() / 4
    assert slack.mean() > 2 * exact.mean()


def test_noise_as_it_is_lies_inside_the_widest_slack(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    task = task_of(teacher, statistics, PICTURES, {"x": UNIT})
    samples = draw_normalised(task, 40, seeded(7))
    layers, targets = statistics.usable, image_targets(statistics.usable, teacher.device)
    values = layer_image_statistics(layers, run_teacher(task, samples, layer_inputs(layers)))

    def cost(quantile: float) -> float:
        slacks = noise_slacks(task, layers, targets, samples, quantile)
        return sum(float(image_distance(*one).sum()) for one in zip(values, targets, slacks, strict=True))

    assert cost(1.0) == pytest.approx(0.0, abs=1e-6)
    assert 0.0 < cost(0.9) < cost(0.5)


def test_intraq_makes_the_teacher_see_more_classes(
    network: models.onnx.ModelProto, made: dict[str, SyntheticSet]
) -> None:
    teacher, _ = teacher_of(network)
    blind, aimed = (
        teacher.run(made[name].inputs)["logits"].argmax(1).bincount(minlength=4) for name in ("zeroq", "intraq")
    )
    assert (aimed > 0).sum() > (blind > 0).sum()
    assert aimed.max() < blind.max()


def test_features_are_what_the_classifier_reads(network: models.onnx.ModelProto) -> None:
    teacher, _ = teacher_of(network)
    assert find_features(teacher, {"x": torch.zeros(1, 3, 16, 16)}, "logits") == "f"
    assert find_features(teacher, {"f": torch.zeros(1, 8)}, "logits") is None


def test_class_centres_are_running_means_without_gradient() -> None:
    centres = ClassCentres(3)
    features = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]], requires_grad=True)
    first = centres.update(features, torch.tensor([0, 0, 2]))
    assert first.tolist() == [[2.0, 1.0], [2.0, 1.0], [5.0, 5.0]]
    assert not first.requires_grad
    second = centres.update(torch.tensor([[12.0, 1.0], [7.0, 7.0]]), torch.tensor([0, 1]))
    torch.testing.assert_close(second, torch.tensor([[3.0, 1.0], [7.0, 7.0]]))
    assert centres.update(torch.tensor([[5.0, 5.0]]), torch.tensor([2])).tolist() == [[5.0, 5.0]]


def test_half_of_the_images_aim_at_less_than_certainty() -> None:
    wanted = confidences(2000, 0.6, seeded())
    assert float((wanted == 1.0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert wanted.min() >= 0.6
    assert float(wanted[wanted < 1.0].mean()) == pytest.approx(0.8, abs=0.02)


def test_a_network_that_takes_a_fixed_batch_gets_it(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    seen: set[int] = set()
    run = teacher.run
    teacher.run = lambda feeds, *rest, **more: (seen.add(len(feeds["x"])), run(feeds, *rest, **more))[1]
    for config in (ZeroqConfig(iterations=1), DsgConfig(iterations=1), IntraqConfig(iterations=1)):
        made = make_generator(config, (spec(4, 3, 16, 16),), UNIT).synthesize(teacher, statistics, 6, seeded())
        assert made.inputs["x"].shape[0] == 6
    assert seen == {4}


@pytest.mark.parametrize("config", ALL, ids=lambda config: type(config).__name__)
def test_without_statistics_there_is_nothing_to_match(config: GeneratorConfig) -> None:
    teacher, _ = teacher_of(models.residual())
    with pytest.raises(SynthesisError, match=r"needs BatchNormalization statistics.*use --generator prior"):
        make_generator(config, (spec(None, 3, 8, 8),), UNIT).synthesize(teacher, NO_STATISTICS, 4, seeded())


def test_intraq_refuses_what_is_no_classifier_and_zeroq_takes_it() -> None:
    teacher, statistics = teacher_of(models.conv_bn_relu())
    inputs = (spec(None, 3, 8, 8),)
    with pytest.raises(SynthesisError, match=r"intraq generator needs an output of shape \(N, classes\), got"):
        make_generator(IntraqConfig(iterations=1), inputs, UNIT).synthesize(teacher, statistics, 4, seeded())
    made = make_generator(ZeroqConfig(iterations=1), inputs, UNIT).synthesize(teacher, statistics, 4, seeded())
    assert made.inputs["x"].shape == (4, 3, 8, 8)


def test_single_images_need_more_than_one_position() -> None:
    model = models.parse(
        """
        dense (float[N,6] x) => (float[N,4] y)
        <float[6,4] w, float[4] scale, float[4] shift, float[4] mean, float[4] variance>
        { c = MatMul(x, w)
          [bn] y = BatchNormalization(c, scale, shift, mean, variance) }
        """
    )
    teacher, statistics = teacher_of(model)
    for config in (ZeroqConfig(iterations=1), DsgConfig(iterations=1)):
        with pytest.raises(SynthesisError, match="more than one position of an image: use --generator pixels"):
            make_generator(config, (spec(None, 6),)).synthesize(teacher, statistics, 4, seeded())


def test_a_network_too_large_for_the_effort_is_refused(
    network: models.onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsq_compile.synthesis.budget._ELEMENTS_PER_SECOND", 1.0)
    teacher, statistics = teacher_of(network)
    with pytest.raises(SynthesisError, match=r"zeroq would take too long .* at the effort fast: take fewer --samples"):
        make_generator(ZeroqConfig(), PICTURES, UNIT, effort="fast").synthesize(teacher, statistics, 8, seeded())


def test_work_is_told_and_ends_where_it_said(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    listener = Listener()
    generator = make_generator(ZeroqConfig(iterations=3, batch_size=4), PICTURES, UNIT, listener)
    generator.synthesize(teacher, statistics, 10, seeded())
    assert listener.steps == [(9, 9)]


def test_a_low_pass_filter_stands_behind_any_generator(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    byte = given_preprocessing(3, input_range=(0.0, 255.0))

    def made(low_pass: float | None, config: GeneratorConfig) -> torch.Tensor:
        generator = make_generator(config, PICTURES, byte, low_pass=low_pass)
        found = generator.synthesize(teacher, statistics, 6, seeded())
        assert found.algorithm.endswith(", low-pass") == (low_pass is not None)
        return found.inputs["x"]

    def roughness(values: torch.Tensor) -> float:
        return float((values[..., 1:] - values[..., :-1]).square().mean())

    for config in (PriorConfig(), ZeroqConfig(iterations=2)):
        plain, mild, strong = (made(low_pass, config) for low_pass in (None, 0.36, 0.1))
        assert roughness(strong) < roughness(mild) < roughness(plain)
        torch.testing.assert_close(strong.mean((2, 3)), plain.mean((2, 3)), rtol=0.0, atol=0.5)
        assert strong.min() >= 0.0 and strong.max() <= 255.001


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ZeroqConfig(iterations=0), "generator.iterations must be a whole number of at least 1, got 0"),
        (lambda: DsgConfig(learning_rate=-1.0), "generator.learning_rate must be a finite number above 0"),
        (lambda: DsgConfig(slack=1.1), "generator.slack must be a finite number of at least 0 and of at most 1"),
        (lambda: DsgConfig(emphasis=0.5), "generator.emphasis must be a finite number of at least 1"),
        (lambda: IntraqConfig(smallest_part=0.0), "generator.smallest_part must be"),
        (lambda: IntraqConfig(local_share=2.0), "generator.local_share must be"),
        (lambda: IntraqConfig(least_confidence=1.5), "generator.least_confidence must be"),
        (lambda: IntraqConfig(least_distance=0.5, most_distance=0.2), "least_distance 0.5 is above"),
    ],
)
def test_wrong_settings_are_refused(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
