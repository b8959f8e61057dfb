import pytest
import torch
from torch.nn import functional

from tests import models
from tests.zsq_compile.synthesis import networks
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, Listener, seeded, spec, task_of, teacher_of, trained_on
from zsq_compile.config.generators import PixelsConfig
from zsq_compile.data.preprocessing import given_preprocessing
from zsq_compile.differentiable import precision
from zsq_compile.errors import SynthesisError
from zsq_compile.synthesis.budget import Budget
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.losses import wasserstein
from zsq_compile.synthesis.make_generator import make_generator
from zsq_compile.synthesis.match_statistics import ClassTargets, match_statistics
from zsq_compile.synthesis.probe import layer_targets, measure_moments

UNIT = given_preprocessing(3, input_range=(0.0, 1.0))
PICTURES = (spec(None, 3, 16, 16),)


@pytest.fixture(scope="module")
def network() -> models.onnx.ModelProto:
    """Trained on pictures that procedural ones are not: bluish, of half the contrast, and smooth."""
    pictures = functional.avg_pool2d(prior_images(64, 3, 16, 16, seeded(99)), 3, 1, 1)
    return trained_on((torch.tensor((0.35, 0.4, 0.5)).view(1, 3, 1, 1) + 0.6 * (pictures - 0.45)).numpy())


def distance(network: models.onnx.ModelProto, values: torch.Tensor) -> float:
    """Mean over layers, measured on all samples at once in float32."""
    teacher, statistics = teacher_of(network)
    measured = measure_moments(teacher, statistics.usable, {"x": values}, len(values))
    targets = layer_targets(statistics.usable, teacher.device)
    pairs = zip(measured, targets, strict=True)
    return float(torch.stack([wasserstein(one, other).mean() for one, other in pairs]).mean())


@pytest.mark.parametrize("batch_size", [64, 10])
def test_the_statistics_come_five_times_nearer(network: models.onnx.ModelProto, batch_size: int) -> None:
    teacher, statistics = teacher_of(network)
    config = PixelsConfig(iterations=25, batch_size=batch_size, learning_rate=0.1)
    made = make_generator(config, PICTURES, UNIT).synthesize(teacher, statistics, 64, seeded())
    before = distance(network, prior_images(64, 3, 16, 16, seeded()))
    assert distance(network, made.inputs["x"]) < before / 5
    assert made.loss_curve[-1] < made.loss_curve[0] / 5
    assert len(made.loss_curve) <= 25


def test_a_network_that_takes_one_sample_at_a_time_is_matched_over_the_whole_set(
    network: models.onnx.ModelProto,
) -> None:
    teacher, statistics = teacher_of(network)
    fixed = (spec(1, 3, 16, 16),)
    made = make_generator(PixelsConfig(iterations=12, learning_rate=0.1), fixed, UNIT).synthesize(
        teacher, statistics, 12, seeded()
    )
    assert distance(network, made.inputs["x"]) < distance(network, prior_images(12, 3, 16, 16, seeded())) / 3
    spread = made.inputs["x"].mean((1, 2, 3)).std()
    assert spread > 0.02, "matching each sample alone would make all of them alike"


def test_a_fixed_batch_is_filled_and_the_rest_cut_off(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    seen: set[int] = set()
    run = teacher.run
    teacher.run = lambda feeds, *rest, **more: (seen.add(len(feeds["x"])), run(feeds, *rest, **more))[1]
    made = make_generator(PixelsConfig(iterations=1), (spec(4, 3, 16, 16),), UNIT).synthesize(
        teacher, statistics, 6, seeded()
    )
    assert made.inputs["x"].shape[0] == 6
    assert seen == {4}


def test_work_ends_where_real_data_would_stand(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)
    listener = Listener()
    made = make_generator(PixelsConfig(iterations=400, batch_size=16), PICTURES, UNIT, listener).synthesize(
        teacher, statistics, 32, seeded()
    )
    assert len(made.loss_curve) < 400
    assert made.loss_curve[-1] < 0.02
    assert listener.steps == [(800, 800)]


def test_class_targets_raise_the_teachers_probability_of_the_targets(network: models.onnx.ModelProto) -> None:
    teacher, _ = teacher_of(network)
    pictures = prior_images(32, 3, 16, 16, seeded())
    labels = torch.arange(32) % 4

    def likelihood(values: torch.Tensor) -> float:
        probabilities = teacher.run({"x": values})["logits"].softmax(1)
        return float(probabilities.gather(1, labels[:, None]).mean())

    moved, _ = match_statistics(
        task_of(teacher, NO_STATISTICS, PICTURES),
        {"x": pictures},
        seeded(),
        teacher=teacher,
        layers=(),
        classes=ClassTargets(output="logits", labels=labels, weight=1.0),
        learning_rate=0.05,
        budget=Budget(iterations=20, batch_size=12),
        enough=0.0,
    )
    assert likelihood(moved["x"]) > 1.25 * likelihood(pictures)


def test_a_class_weight_makes_the_teacher_more_certain(network: models.onnx.ModelProto) -> None:
    teacher, statistics = teacher_of(network)

    def certainty(weight: float) -> float:
        config = PixelsConfig(iterations=25, class_weight=weight, learning_rate=0.2)
        made = make_generator(config, PICTURES, UNIT).synthesize(teacher, statistics, 32, seeded())
        return float(teacher.run(made.inputs)["logits"].softmax(1).max(1).values.mean())

    assert certainty(10.0) > certainty(0.0) + 0.05


def test_without_statistics_there_is_nothing_to_match() -> None:
    teacher, _ = teacher_of(models.residual())
    with pytest.raises(SynthesisError, match="use --generator prior"):
        make_generator(PixelsConfig(), (spec(None, 3, 8, 8),), UNIT).synthesize(teacher, NO_STATISTICS, 4, seeded())


def test_class_targets_need_an_output_of_class_scores() -> None:
    teacher, statistics = teacher_of(models.conv_bn_relu())
    generator = make_generator(PixelsConfig(class_weight=1.0), (spec(None, 3, 8, 8),), UNIT)
    with pytest.raises(SynthesisError, match=r"class_weight needs an output of shape \(N, classes\), got"):
        generator.synthesize(teacher, statistics, 4, seeded())


def test_a_network_too_large_for_the_effort_gets_procedural_data_and_a_warning(
    network: models.onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsq_compile.synthesis.budget._ELEMENTS_PER_SECOND", 1.0)
    teacher, statistics = teacher_of(network)
    listener = Listener()
    made = make_generator(PixelsConfig(), PICTURES, UNIT, listener).synthesize(teacher, statistics, 4, seeded())
    assert torch.equal(made.inputs["x"], prior_images(4, 3, 16, 16, seeded()))
    assert made.loss_curve == ()
    assert sum("too large" in warning for warning in listener.warnings) == 1


def test_reduced_precision_changes_the_statistics_by_its_rounding_only(
    network: models.onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, statistics = teacher_of(network)
    generator = make_generator(PixelsConfig(iterations=3), PICTURES, UNIT)
    curves = []
    for native in (True, False):
        monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda native=native: native)
        curves.append(generator.synthesize(teacher, statistics, 32, seeded()).loss_curve)
    assert curves[0] == pytest.approx(curves[1], rel=0.05)
    assert curves[0] != curves[1]


def test_vectors_are_matched_too() -> None:
    model = models.parse(
        """
        dense (float[N,6] x) => (float[N,4] y)
        <float[6,4] w, float[4] scale, float[4] shift, float[4] mean, float[4] variance>
        { c = MatMul(x, w)
          [bn] y = BatchNormalization(c, scale, shift, mean, variance) }
        """,
        weights={"mean": 5.0 * networks.np.ones(4)},
    )
    teacher, statistics = teacher_of(model)
    made = make_generator(PixelsConfig(iterations=200, learning_rate=0.3), (spec(None, 6),)).synthesize(
        teacher, statistics, 64, seeded()
    )
    assert made.loss_curve[-1] < made.loss_curve[0] / 20
