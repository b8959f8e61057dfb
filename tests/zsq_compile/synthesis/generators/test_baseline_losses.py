import numpy as np
import pytest
import torch

from passes.batchnorm.harvest_batchnorm import BatchNorm
from zsq_compile.differentiable.class_scores import class_probabilities
from zsq_compile.synthesis.channel_moments import ActivationMoments, channel_moments
from zsq_compile.synthesis.generators.baseline_losses import (
    ImageStatistics,
    Slack,
    channel_divergence,
    image_distance,
    image_statistics,
    image_targets,
    input_distance,
    layer_emphasis,
    layer_image_statistics,
    marginal_distance_loss,
    measured_slack,
    moment_errors,
    soft_label_loss,
)

RNG = np.random.default_rng(3)
VALUES = RNG.normal(2.0, 3.0, (4, 5, 6, 7))
MEAN, VARIANCE = RNG.normal(0.0, 1.0, 5), RNG.uniform(0.5, 2.0, 5)


def entry(*dead: bool) -> BatchNorm:
    return BatchNorm(
        node="bn",
        input="x",
        output="y",
        mean=MEAN.astype(np.float32),
        variance=VARIANCE.astype(np.float32),
        scale=np.ones(5, np.float32),
        shift=np.zeros(5, np.float32),
        epsilon=1e-5,
        layer=None,
        dead=np.array(dead or [False] * 5),
    )


def gaps() -> tuple[np.ndarray, np.ndarray]:
    """(N, C) gaps of means and of deviations, in float64."""
    mean = VALUES.mean((2, 3)) - MEAN
    deviation = np.sqrt(VALUES.var((2, 3), ddof=1) + 1e-6) - np.sqrt(VARIANCE + 1e-6)
    return mean, deviation


def measured() -> ImageStatistics:
    return image_statistics(torch.from_numpy(VALUES))


def target() -> ImageStatistics:
    return image_targets([entry()], torch.device("cpu"))[0]


def test_zeroq_s_distance_is_the_closed_form() -> None:
    mean, deviation = gaps()
    expected = (mean**2 + deviation**2).sum(1)
    np.testing.assert_allclose(image_distance(measured(), target()).numpy(), expected, rtol=1e-5)


def test_a_mirrored_image_is_as_far_and_another_image_is_not() -> None:
    one = image_distance(measured(), target())
    mirrored = image_distance(image_statistics(torch.from_numpy(VALUES[..., ::-1].copy())), target())
    torch.testing.assert_close(one, mirrored)
    assert one.std() > 0.0


def test_dead_channels_do_not_count() -> None:
    layer = entry(False, True, False, True, False)
    found = layer_image_statistics([layer], {"x": torch.from_numpy(VALUES)})[0]
    mean, deviation = gaps()
    alive = [0, 2, 4]
    expected = (mean[:, alive] ** 2 + deviation[:, alive] ** 2).sum(1)
    got = image_distance(found, image_targets([layer], torch.device("cpu"))[0])
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


def test_one_position_has_no_deviation() -> None:
    for shape in ((2, 3), (2, 3, 1, 1)):
        with pytest.raises(ValueError, match="needs 2 positions"):
            image_statistics(torch.zeros(shape))


def test_dsg_s_slack_is_subtracted_from_every_gap() -> None:
    slack = Slack(mean=1.5, deviation=0.7)
    expected = sum(
        (np.maximum(np.abs(gap) - one, 0.0) ** 2).sum(1) for gap, one in zip(gaps(), (1.5, 0.7), strict=True)
    )
    assert (np.asarray(expected) > 0).all()
    np.testing.assert_allclose(image_distance(measured(), target(), slack).numpy(), expected, rtol=1e-5)


def test_inside_the_slack_nothing_costs_and_nothing_pulls() -> None:
    mean, deviation = (float(np.abs(gap).max()) * 1.001 for gap in gaps())
    values = torch.from_numpy(VALUES).requires_grad_()
    distance = image_distance(image_statistics(values), target(), Slack(mean=mean, deviation=deviation))
    assert distance.detach().tolist() == [0.0] * 4
    (gradient,) = torch.autograd.grad(distance.sum(), values)
    assert not gradient.any()


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 1.0])
def test_slack_is_that_quantile_of_the_gaps(quantile: float) -> None:
    slack = measured_slack(measured(), target(), quantile)
    for one, gap in zip((slack.mean, slack.deviation), gaps(), strict=True):
        assert one == pytest.approx(np.quantile(np.abs(gap), quantile), rel=1e-5)


def test_every_image_stresses_the_layer_of_its_number() -> None:
    expected = [[1, 1, 2], [2, 1, 1], [1, 2, 1], [1, 1, 2]]
    assert layer_emphasis(range(5, 9), 3, 2.0).tolist() == expected


def test_the_input_term_is_the_closed_form() -> None:
    mean = VALUES.mean((2, 3))
    deviation = np.sqrt(VALUES.var((2, 3), ddof=1) + 1e-6)
    expected = (mean**2).sum(1) + ((deviation - 1.0) ** 2).sum(1)
    np.testing.assert_allclose(input_distance(torch.from_numpy(VALUES)).numpy(), expected, rtol=1e-5)


def test_intraq_s_moments_are_those_of_the_batch_and_the_variance_is_not_its_root() -> None:
    layers = [channel_moments(torch.from_numpy(VALUES)), channel_moments(torch.from_numpy(0.5 * VALUES))]
    wanted = ActivationMoments(mean=torch.from_numpy(MEAN), variance=torch.from_numpy(VARIANCE))
    expected = np.mean(
        [
            ((values.mean((0, 2, 3)) - MEAN) ** 2).mean() + ((values.var((0, 2, 3)) - VARIANCE) ** 2).mean()
            for values in (VALUES, 0.5 * VALUES)
        ]
    )
    assert float(moment_errors(layers, [wanted, wanted])) == pytest.approx(expected, rel=1e-6)


def test_soft_labels_pull_from_both_sides() -> None:
    probabilities = torch.tensor([[0.2, 0.8], [0.9, 0.1]])
    labels, confidence = torch.tensor([1, 0]), torch.tensor([0.7, 1.0])
    assert float(soft_label_loss(probabilities, labels, confidence)) == pytest.approx((0.1**2 + 0.1**2) / 2)
    assert float(soft_label_loss(probabilities, labels, torch.tensor([0.8, 0.9]))) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("degrees", "loss"), [(0.0, 0.1), (60.0, 0.0), (90.0, 0.2), (180.0, 1.2)])
def test_features_cost_what_they_are_outside_the_margins(degrees: float, loss: float) -> None:
    angle = np.deg2rad(degrees)
    features = torch.tensor([[3.0 * np.cos(angle), 3.0 * np.sin(angle)]])
    got = marginal_distance_loss(features, torch.tensor([[0.5, 0.0]], dtype=features.dtype), 0.1, 0.8)
    assert float(got) == pytest.approx(loss, abs=1e-6)


def test_probabilities_stay_and_scores_go_through_softmax() -> None:
    scores = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.5, 0.5]])
    expected = np.exp(scores.numpy()) / np.exp(scores.numpy()).sum(1, keepdims=True)
    np.testing.assert_allclose(class_probabilities(scores).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(class_probabilities(scores[:, :, None, None]).numpy(), expected, rtol=1e-6)
    torch.testing.assert_close(class_probabilities(torch.from_numpy(expected)), torch.from_numpy(expected))


def test_the_divergence_is_the_mean_over_all_channels_of_all_layers() -> None:
    """A wide layer counts for more than a narrow one, and a weight serves networks of every width."""
    rng = np.random.default_rng(4)
    sizes = (2, 7)
    pairs = [
        [
            ActivationMoments(mean=torch.tensor(rng.normal(size=n)), variance=torch.tensor(rng.uniform(0.1, 2.0, n)))
            for n in sizes
        ]
        for _ in range(2)
    ]
    terms = [
        torch.distributions.kl_divergence(
            *(torch.distributions.Normal(part.mean, part.variance.sqrt()) for part in (one, other))
        )
        for one, other in zip(*pairs, strict=True)
    ]
    torch.testing.assert_close(channel_divergence(*pairs), torch.cat(terms).sum() / 9, rtol=1e-9, atol=0)
    assert float(channel_divergence(pairs[0], pairs[0])) == pytest.approx(0.0, abs=1e-12)
