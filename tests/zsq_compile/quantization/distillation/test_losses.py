import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsq_compile.quantization.distillation.losses import (
    agreement,
    attention_distance,
    channel_attention,
    output_distance,
    softened_divergence,
    squared_error,
)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def divergence(scores: Tensor, wanted: Tensor, temperature: float) -> float:
    p, q = (softmax(x.double().numpy() / temperature) for x in (wanted, scores))
    return float(temperature**2 * np.mean(np.sum(p * np.log(p / q), axis=1)))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_the_softened_divergence_is_the_closed_form(temperature: float) -> None:
    scores, wanted = 3 * numbers(6, 5, seed=0), 3 * numbers(6, 5, seed=1)
    got = float(softened_divergence(scores, wanted, temperature))
    assert got == pytest.approx(divergence(scores, wanted, temperature), rel=1e-4)
    assert float(softened_divergence(wanted, wanted, temperature)) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_network_that_ends_in_a_softmax_is_compared_by_the_scores_in_front_of_it(temperature: float) -> None:
    scores, wanted = 3 * numbers(6, 10, seed=0), 3 * numbers(6, 10, seed=1)
    mine, theirs = scores.softmax(1), wanted.softmax(1)
    got = softened_divergence(mine, theirs, temperature)
    assert float(got) == pytest.approx(divergence(scores, wanted, temperature), rel=1e-4)
    # steps of 1/256, of a softmax that is quantized itself: the float network decides what the numbers are
    coarse = ((mine * 256).round() / 256).clamp_min(1e-30)
    assert not torch.allclose(coarse.sum(1), torch.ones(6), atol=1e-3)
    found = float(softened_divergence(coarse, theirs, temperature))
    assert found == pytest.approx(divergence(coarse.double().log(), wanted, temperature), rel=1e-4)


def test_at_a_high_temperature_the_divergence_is_the_distance_of_centred_scores() -> None:
    # Hinton et al. 2015, section 2.1: with T large, T^2 KL goes to the squared distance over 2 C
    scores, wanted = numbers(4, 5, seed=0), numbers(4, 5, seed=1)
    apart = (scores - scores.mean(1, keepdim=True)) - (wanted - wanted.mean(1, keepdim=True))
    got = float(softened_divergence(scores.double(), wanted.double(), 100.0))
    assert got == pytest.approx(float(apart.square().sum(1).mean()) / (2 * 5), rel=0.05)


def test_the_squared_error_is_relative_to_the_variance() -> None:
    output, wanted = numbers(3, 2, 4, 4, seed=0), 5 * numbers(3, 2, 4, 4, seed=1)
    want = np.mean((output.numpy() - wanted.numpy()) ** 2) / np.var(wanted.numpy())
    assert float(squared_error(output, wanted)) == pytest.approx(float(want), rel=1e-5)
    assert float(squared_error(7 * output, 7 * wanted)) == pytest.approx(float(want), rel=1e-5)


def test_each_output_has_the_distance_of_its_kind() -> None:
    outputs = {"classes": numbers(4, 3, seed=0), "map": numbers(4, 2, 3, 3, seed=1), "index": torch.arange(4)}
    targets = {"classes": numbers(4, 3, seed=2), "map": numbers(4, 2, 3, 3, seed=3), "index": torch.arange(4) + 1}
    want = divergence(outputs["classes"], targets["classes"], 2.0)
    want += float(squared_error(outputs["map"], targets["map"]))
    assert float(output_distance(outputs, targets, 2.0)) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("shape", [(4, 3, 1, 1), (4, 1, 1, 3)])
def test_scores_may_have_axes_of_size_one(shape: tuple[int, ...]) -> None:
    scores, wanted = numbers(4, 3, seed=0), numbers(4, 3, seed=2)
    got = output_distance({"y": scores.reshape(shape)}, {"y": wanted.reshape(shape)}, 2.0)
    assert float(got) == pytest.approx(divergence(scores, wanted, 2.0), rel=1e-4)


def test_the_channel_attention_is_the_closed_form() -> None:
    feature = numbers(3, 4, 5, 6, seed=0)
    energy = np.mean(feature.numpy() ** 2, axis=(2, 3))
    want = energy / np.linalg.norm(energy, axis=1, keepdims=True)
    np.testing.assert_allclose(channel_attention(feature).numpy(), want, rtol=1e-5)
    other = numbers(3, 4, 5, 6, seed=1)
    distance = attention_distance({"a": feature, "b": other}, {"a": other, "b": other}, ["a", "b"])
    apart = want - channel_attention(other).numpy()
    assert float(distance) == pytest.approx(float(np.mean(apart**2)), rel=1e-4)


def test_agreement_counts_common_decisions_of_outputs_with_classes() -> None:
    one = {"y": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), "map": numbers(4, 2, 3, 3, seed=0)}
    other = {"y": torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 0.5], [1.0, 0.0]]), "map": numbers(4, 2, 3, 3, seed=1)}
    assert agreement(one, other) == 0.75
    assert agreement({"map": one["map"]}, {"map": other["map"]}) is None
