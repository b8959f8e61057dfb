import numpy as np
import pytest
import torch

from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.synthesis.classes import Classes, decided_classes, random_classes, score_output

SURE = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [9.0, 1.0, 3.0], [0.0, 8.0, 1.0]])


def test_the_score_output_is_a_row_of_numbers_per_sample() -> None:
    outputs = {
        "argmax": torch.zeros(4, 3, dtype=torch.int64),
        "map": torch.zeros(4, 3, 8, 8),
        "single": torch.zeros(4, 1),
        "scores": torch.zeros(4, 3, 1, 1),
        "later": torch.zeros(4, 3),
    }
    assert score_output(outputs) == "scores"
    assert score_output({"map": outputs["map"]}) is None


def test_random_classes_are_balanced_and_repeatable() -> None:
    first, again = (random_classes("y", 3, 11, 0.5, seeded()).labels for _ in range(2))
    assert torch.equal(first, again)
    assert sorted(torch.bincount(first, minlength=3).tolist()) == [3, 4, 4]
    assert not torch.equal(first, torch.arange(11) % 3)


def test_decided_classes_are_those_that_a_sample_stands_out_for() -> None:
    favourite = torch.tensor([20.0, 0.0, 0.0])  # a class that every sample prefers must not take all of them
    decided = decided_classes("y", SURE + favourite)
    assert decided is not None
    assert decided.labels.tolist() == [0, 1, 0, 1]


def test_outputs_of_a_regression_are_left_alone() -> None:
    assert decided_classes("y", 0.2 * torch.randn(16, 136, generator=seeded())) is None


def test_scores_behind_a_softmax_count_as_their_logits() -> None:
    labels = torch.tensor([0, 0, 2, 1])
    targets = Classes(output="y", labels=labels, weight=2.0, slack=0.0)
    raw, soft = (targets.loss({"y": scores}, 0).item() for scores in (SURE, SURE.softmax(1)))
    assert soft == pytest.approx(raw, rel=1e-3)
    expected = -SURE.double().log_softmax(1)[torch.arange(4), labels].mean()
    assert raw == pytest.approx(2.0 * expected.item(), rel=1e-6)


def test_samples_that_are_sure_enough_are_left_alone() -> None:
    targets = Classes(output="y", labels=torch.tensor([2, 0, 1, 2, 1]), weight=1.0, slack=0.3)
    scores = SURE.clone().requires_grad_()
    loss = targets.loss({"y": scores}, 1)
    (gradient,) = torch.autograd.grad(loss, [scores])
    np.testing.assert_array_equal(gradient[:2], np.zeros((2, 3)))
    assert gradient[2].abs().sum() > 0
