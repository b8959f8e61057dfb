import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from zsq_compile.differentiable.class_scores import class_logits
from zsq_compile.synthesis.channel_moments import ActivationMoments, channel_moments, join_moments
from zsq_compile.synthesis.losses import class_loss, gaussian_kl, moment_difference, wasserstein

Pair = tuple[ActivationMoments, ActivationMoments]


def moments(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> ActivationMoments:
    return ActivationMoments(mean=torch.tensor(mean), variance=torch.tensor(variance))


@pytest.fixture
def pair() -> Pair:
    rng = np.random.default_rng(0)
    return (
        moments(rng.normal(size=6), rng.uniform(0.1, 2.0, 6)),
        moments(rng.normal(size=6), rng.uniform(0.1, 2.0, 6)),
    )


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 7), (2, 3, 5, 6)])
def test_batch_moments_are_numpys(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, shape).astype(np.float32)
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    measured = channel_moments(torch.from_numpy(values))
    np.testing.assert_allclose(measured.mean, values.mean(axes, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(measured.variance, values.var(axes, dtype=np.float64), rtol=1e-5)


def test_moments_of_half_precision_are_taken_in_float32() -> None:
    values = torch.full((4096, 1, 4, 4), 1.0, dtype=torch.bfloat16)
    assert channel_moments(values).mean.dtype == torch.float32
    assert channel_moments(values).mean.item() == 1.0


def test_joined_moments_are_those_of_all_samples_together() -> None:
    rng = np.random.default_rng(2)
    parts = [rng.normal(offset, 1.0 + offset, (size, 3, 4, 4)) for offset, size in ((0.0, 2), (1.0, 5), (4.0, 1))]
    whole = join_moments([channel_moments(torch.from_numpy(part)) for part in parts], [len(part) for part in parts])
    everything = np.concatenate(parts)
    np.testing.assert_allclose(whole.mean, everything.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(whole.variance, everything.var((0, 2, 3)), rtol=1e-6)


def test_moment_difference_is_its_closed_form_and_has_a_gradient_at_a_constant_channel(
    pair: Pair,
) -> None:
    one, other = pair
    m, v, target_m, target_v = (x.numpy() for x in (one.mean, one.variance, other.mean, other.variance))
    expected = (m - target_m) ** 2 + (np.sqrt(v + 1e-6) - np.sqrt(target_v + 1e-6)) ** 2
    np.testing.assert_allclose(moment_difference(one, other), expected, rtol=1e-6)
    constant = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    moment_difference(ActivationMoments(mean=one.mean, variance=constant), other).sum().backward()
    assert constant.grad is not None and bool(constant.grad.isfinite().all()) and bool((constant.grad < 0).all())


def test_wasserstein_is_its_closed_form(pair: Pair) -> None:
    one, other = pair
    m, v, target_m, target_v = (x.numpy() for x in (one.mean, one.variance, other.mean, other.variance))
    expected = ((m - target_m) ** 2 + (np.sqrt(v) - np.sqrt(target_v)) ** 2) / target_v
    np.testing.assert_allclose(wasserstein(one, other), expected, rtol=1e-6)


def test_kl_is_its_closed_form(pair: Pair) -> None:
    one, other = pair
    m, v, target_m, target_v = (x.numpy() for x in (one.mean, one.variance, other.mean, other.variance))
    expected = ((m - target_m) ** 2 + v) / (2 * target_v) - np.log(np.sqrt(v / target_v)) - 0.5
    np.testing.assert_allclose(gaussian_kl(one, other), expected, rtol=1e-6)


def test_kl_is_that_of_torch_s_gaussians(pair: Pair) -> None:
    gaussians = [torch.distributions.Normal(part.mean, part.variance.sqrt()) for part in pair]
    torch.testing.assert_close(gaussian_kl(*pair), torch.distributions.kl_divergence(*gaussians), rtol=1e-9, atol=0)


@pytest.mark.parametrize("distance", [wasserstein, gaussian_kl])
def test_distances_are_zero_at_home_and_free_of_scale(distance, pair: Pair) -> None:
    one, other = pair
    torch.testing.assert_close(distance(one, one), torch.zeros_like(one.mean), atol=1e-9, rtol=0)
    scaled = [ActivationMoments(mean=7.0 * part.mean, variance=49.0 * part.variance) for part in pair]
    torch.testing.assert_close(distance(*scaled), distance(one, other), rtol=1e-6, atol=0)


@pytest.mark.parametrize("distance", [wasserstein, gaussian_kl])
def test_gradients_of_distances_through_batch_moments(distance, pair: Pair) -> None:
    values = torch.randn(3, 6, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = pair[1]
    assert torch.autograd.gradcheck(
        lambda x: distance(channel_moments(x), target), (values.requires_grad_(),), raise_exception=True
    )


@pytest.mark.parametrize("distance", [wasserstein, gaussian_kl])
def test_a_constant_channel_keeps_loss_and_gradient_finite(distance) -> None:
    values = torch.ones(2, 1, 3, 3, requires_grad=True)
    target = ActivationMoments(mean=torch.zeros(1), variance=torch.ones(1))
    loss = distance(channel_moments(values), target).sum()
    (gradient,) = torch.autograd.grad(loss, [values])
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_class_loss_is_cross_entropy_also_of_one_by_one_maps() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    labels = torch.tensor([0, 2])
    expected = -np.mean([2.0 - np.log(np.exp([2.0, 0.0, -1.0]).sum()), -np.log(3.0)])
    assert class_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)
    assert class_loss(logits[:, :, None, None], labels).item() == pytest.approx(expected, rel=1e-6)


def test_probabilities_become_logits_of_the_same_classes_and_logits_stay() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 90.0, 0.0], [0.5, 0.25, 0.25]])
    labels = torch.tensor([2, 0, 1])
    torch.testing.assert_close(class_logits(logits), logits)
    torch.testing.assert_close(class_logits(logits[:, :, None, None]), logits)
    expected = torch.nn.functional.cross_entropy(logits[[0, 2]], labels[[0, 2]])
    found = class_loss(class_logits(logits[[0, 2]].softmax(1)), labels[[0, 2]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_a_class_without_a_chance_keeps_its_gradient() -> None:
    scores = torch.tensor([[0.0, 40.0]], requires_grad=True)
    class_loss(class_logits(scores.softmax(1)), torch.tensor([0])).backward()
    torch.testing.assert_close(scores.grad, torch.tensor([[-1.0, 1.0]]), rtol=1e-4, atol=0)
