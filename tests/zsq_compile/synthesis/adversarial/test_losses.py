import math

import pytest
import torch
from torch import Tensor

from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.config.conditional_generators import AdadfqConfig
from zsq_compile.synthesis.adversarial.losses import (
    disagreement_entropy,
    discrepancy,
    draw_margin,
    gaussian_loss,
    margin_loss,
    two_sided_loss,
)


def scores(seed: int, *, count: int = 6, classes: int = 5) -> Tensor:
    return torch.randn(count, classes, generator=seeded(seed), dtype=torch.float64) * 2


def numeric_gradient(function, x: Tensor, step: float = 1e-3) -> Tensor:  # type: ignore[no-untyped-def]
    found = torch.zeros_like(x)
    for place in range(x.numel()):
        ends = []
        for sign in (1.0, -1.0):
            moved = x.clone()
            moved.view(-1)[place] += sign * step
            ends.append(float(function(moved)))
        found.view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_discrepancy_is_a_divergence_per_sample(temperature: float) -> None:
    teacher, student = scores(0), scores(1)
    p, q = ((x / temperature).softmax(1) for x in (teacher, student))
    want = temperature**2 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(discrepancy(teacher, student, temperature).double(), want, rtol=1e-4, atol=1e-6)
    assert float(discrepancy(teacher, teacher + 3.0, temperature).abs().max()) < 1e-5
    maps = teacher[..., None, None], student[..., None, None]
    assert torch.equal(discrepancy(*maps, temperature), discrepancy(teacher, student, temperature))


def test_margins_are_normal_around_the_mean_and_never_negative() -> None:
    rng = seeded()
    drawn = torch.tensor([draw_margin(2.0, rng) for _ in range(4000)])
    assert float(drawn.mean()) == pytest.approx(2.4, abs=0.05)  # five deviations of the mean
    assert float(drawn.std()) == pytest.approx(0.6, abs=0.05)
    assert float(drawn.min()) >= 0.0
    assert draw_margin(0.0, rng) == 0.0


def test_only_samples_below_the_margin_are_pushed() -> None:
    distances = torch.tensor([0.5, 1.0, 3.0, 8.0], requires_grad=True)
    loss = margin_loss(distances, 2.0, 2.5)
    assert float(loss.detach()) == pytest.approx((1.5 + 1.0) / 4 / 3.0)
    loss.backward()
    torch.testing.assert_close(distances.grad, torch.tensor([-1.0, -1.0, 0.0, 0.0]) / 4 / 3.0)


def test_the_margin_is_free_of_the_size_of_the_discrepancy() -> None:
    distances = torch.rand(32, generator=seeded())
    small, large = (
        margin_loss(scale * distances, draw_margin(scale * 0.5, seeded(3)), scale * 0.5) for scale in (1e-3, 10.0)
    )
    assert float(small) == pytest.approx(float(large), rel=1e-5)
    assert float(margin_loss(torch.zeros(4), 0.0, 0.0)) == 0.0


def test_the_gaussian_form_pushes_near_its_deviation_most() -> None:
    distances = torch.tensor([0.0, 1.0, 2.0, 6.0], requires_grad=True)
    loss = gaussian_loss(distances, 2.0)
    want = [math.exp(-0.5 * (d / 2.0) ** 2) for d in (0.0, 1.0, 2.0, 6.0)]
    assert float(loss.detach()) == pytest.approx(sum(want) / 4)
    loss.backward()
    assert distances.grad is not None
    push = distances.grad.abs()
    assert int(push.argmax()) == 2 and float(push[3]) < 0.1 * float(push[2])


def test_the_entropy_of_the_disagreement_is_normalised_over_the_batch() -> None:
    teacher, student = scores(0), scores(1)
    p = (teacher - student).softmax(1)
    entropy = -(p * p.log()).sum(1)
    want = (entropy - entropy.min()) / (math.log(5) - entropy.min())
    torch.testing.assert_close(disagreement_entropy(teacher, student).double(), want, rtol=1e-4, atol=1e-5)
    assert disagreement_entropy(teacher, teacher).tolist() == pytest.approx([1.0] * 6)


def test_samples_between_the_bounds_are_left_alone() -> None:
    teacher, student, labels = scores(0), scores(1), torch.tensor([0, 1, 2, 3, 4, 0])
    entropy = disagreement_entropy(teacher, student)
    bounds = AdadfqConfig(lower=0.3, upper=0.6, disagreement_weight=0.0, agreement_weight=0.0)
    want = [max(0.0, 0.3 - h) + max(0.0, h - 0.6) for h in entropy.tolist()]
    assert float(two_sided_loss(teacher, student, labels, bounds)) == pytest.approx(sum(want) / 6, rel=1e-5)
    wide = AdadfqConfig(lower=0.0, upper=1.0)
    chosen = [torch.nn.functional.cross_entropy((teacher + sign * student).float(), labels) for sign in (-1.0, 1.0)]
    assert float(two_sided_loss(teacher, student, labels, wide)) == pytest.approx(
        float(0.2 * chosen[0] + 0.1 * chosen[1]), rel=1e-5
    )


def test_gradients_reach_what_the_samples_make_of_both_networks() -> None:
    teacher, labels = scores(0), torch.tensor([0, 1, 2, 3, 4, 0])
    student = scores(1)
    losses = {
        "margin": lambda x: margin_loss(discrepancy(teacher, x, 2.0), 3.0, 2.0),
        "gaussian": lambda x: gaussian_loss(discrepancy(teacher, x, 2.0), 2.0),
        "of the teacher": lambda x: margin_loss(discrepancy(x, teacher, 2.0), 3.0, 2.0),
        # the least entropy of a batch counts as a constant, which differences would not see
        "classes of AdaDFQ": lambda x: two_sided_loss(teacher, x, labels, AdadfqConfig(lower=0.0, upper=1.0)),
    }
    for name, loss in losses.items():
        x = student.clone().requires_grad_()
        loss(x).backward()
        want = numeric_gradient(loss, student)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, want, rtol=0.02, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_the_bounds_push_the_entropy_inwards() -> None:
    teacher = torch.tensor([[4.0, 0.0, 0.0], [0.3, 0.0, 0.0], [1.5, 0.0, 0.0]])
    student = torch.zeros(3, 3, requires_grad=True)
    labels = torch.tensor([0, 0, 0])
    before = disagreement_entropy(teacher, student.detach())
    numbers = AdadfqConfig(lower=0.1, upper=0.8, disagreement_weight=0.0, agreement_weight=0.0)
    two_sided_loss(teacher, student, labels, numbers).backward()
    assert student.grad is not None
    after = disagreement_entropy(teacher, student.detach() - 0.1 * student.grad)
    # measured on the scale of the batch before, whose least entropy is the first one's
    assert before.tolist()[0] == pytest.approx(0.0, abs=1e-6) and float(before[1]) > 0.8
    assert float(student.grad[1].abs().sum()) > 0 and float(student.grad[0].abs().sum()) > 0
    assert float(student.grad[2].abs().sum()) == 0.0
    assert float(after[1]) < float(before[1])
