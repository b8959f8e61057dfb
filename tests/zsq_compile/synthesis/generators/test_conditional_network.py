import pytest
import torch

from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.synthesis.balanced_labels import BalancedLabels
from zsq_compile.synthesis.generators.conditional_network import ConditionalGeneratorNetwork, ConditionalNormalization
from zsq_compile.synthesis.generators.generator_network import plan_network

PLAN = plan_network(12, (3, 8, 8), 100_000)


def test_values_are_normalised_over_the_batch_then_scaled_and_shifted_by_class() -> None:
    layer = ConditionalNormalization(4, 3).double()
    values = 2.0 + 3.0 * torch.randn(6, 4, 5, 2, dtype=torch.float64, generator=seeded())
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    plain = (values - values.mean((0, 2, 3), keepdim=True)) / (
        values.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(layer(values, labels), plain, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        layer.scale.copy_(torch.arange(12.0).view(3, 4))
        layer.shift.copy_(-torch.arange(12.0).view(3, 4) / 7)
    rows = layer(values, labels)
    for row, label in enumerate(labels.tolist()):
        expected = layer.scale[label][:, None, None] * plain[row] + layer.shift[label][:, None, None]
        torch.testing.assert_close(rows[row], expected, rtol=1e-9, atol=1e-9)


def test_gradients_reach_values_and_the_rows_of_classes_that_are_there() -> None:
    layer = ConditionalNormalization(2, 3).double()
    values = torch.randn(3, 2, 2, 2, dtype=torch.float64, generator=seeded(), requires_grad=True)
    labels = torch.tensor([2, 0, 2])
    assert torch.autograd.gradcheck(lambda x: layer(x, labels), (values,))
    layer(values, labels).square().sum().backward()
    assert layer.scale.grad is not None
    assert layer.scale.grad.abs().sum(1).gt(0).tolist() == [True, False, True]


@pytest.mark.parametrize("embedded", [True, False])
def test_the_label_changes_the_picture(embedded: bool) -> None:
    painter = ConditionalGeneratorNetwork(PLAN, 5, seeded(), embedded=embedded)
    assert (painter.embedding is not None) == embedded
    if not embedded:  # tables start alike for all classes
        with torch.no_grad():
            for layer in painter.network.normalizations:
                layer.scale.add_(torch.arange(5.0)[:, None])
    latents = torch.randn(4, 12, generator=seeded(1))
    one, same, other = (painter(latents, torch.tensor(labels)) for labels in ([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 4]))
    assert one.shape == (4, 3, 8, 8) and torch.equal(one, same)
    assert float((one[3] - other[3]).abs().max().detach()) > 0.01


def test_without_learning_tables_know_no_class_and_embeddings_do() -> None:
    latents = torch.randn(4, 12, generator=seeded(1))
    for embedded in (False, True):
        painter = ConditionalGeneratorNetwork(PLAN, 5, seeded(), embedded=embedded)
        first, second = (painter(latents, torch.full((4,), label)) for label in (0, 1))
        assert torch.equal(first, second) != embedded


@pytest.mark.parametrize("embedded", [True, False])
def test_weights_come_from_the_generator_that_is_given_alone(embedded: bool) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (ConditionalGeneratorNetwork(PLAN, 5, seeded(seed), embedded=embedded) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in first.state_dict().items())


def test_no_class_is_ever_ahead_by_more_than_one() -> None:
    deck, rng = BalancedLabels(7), seeded()
    counts = torch.zeros(7, dtype=torch.int64)
    orders = set()
    for count in (3, 1, 20, 5, 7, 7, 7):
        dealt = deck.draw(count, rng)
        assert dealt.shape == (count,)
        counts += dealt.bincount(minlength=7)
        assert int(counts.max() - counts.min()) <= 1
        orders.add(tuple(dealt.tolist()))
    assert len({order for order in orders if len(order) == 7}) == 3
    assert len(BalancedLabels(0).draw(0, rng)) == 0
