import pytest
import torch
from torch import nn

from tests.zsq_compile.synthesis.networks import seeded
from zsq_compile.synthesis.generators.generator_network import GeneratorNetwork, plan_network

LATENT = 16


@pytest.mark.parametrize(
    "picture",
    [(3, 16, 16), (1, 8, 8), (3, 33, 20), (1, 5, 70), (3, 3, 1), (3, 1, 1), (1, 28, 28)],
    ids=str,
)
def test_pictures_of_every_size_are_normalised_over_the_batch(picture: tuple[int, int, int]) -> None:
    network = GeneratorNetwork(plan_network(LATENT, picture, 100_000), seeded())
    made = network(torch.randn(6, LATENT, generator=seeded(1)))
    assert made.shape == (6, *picture) and made.dtype == torch.float32
    variance, mean = torch.var_mean(made, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(picture[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(variance, torch.ones(picture[0]), atol=0.01, rtol=0)  # the layer adds 1e-5 to a variance


@pytest.mark.parametrize(
    ("picture", "first", "stages"),
    [((3, 32, 32), (8, 8), 2), ((3, 224, 224), (7, 7), 5), ((1, 28, 28), (7, 7), 2), ((3, 299, 256), (5, 8), 6)],
)
def test_the_map_starts_small_whatever_the_picture(
    picture: tuple[int, int, int], first: tuple[int, int], stages: int
) -> None:
    plan = plan_network(256, picture, 300_000_000)
    assert plan.sizes[0] == first and plan.sizes[-1] == picture[1:]
    assert len(plan.sizes) == len(plan.channels) == stages + 1


def test_a_small_picture_gets_the_published_network() -> None:
    plan = plan_network(256, (3, 32, 32), 24_000_000)
    assert (plan.sizes, plan.channels) == (((8, 8), (16, 16), (32, 32)), (128, 64, 3))


def test_a_large_picture_takes_few_weights() -> None:
    plan = plan_network(256, (3, 224, 224), 200_000_000)
    weights = 256 * plan.channels[0] * 7 * 7 + sum(
        9 * before * after for before, after in zip(plan.channels, plan.channels[1:], strict=False)
    )
    assert weights < 5_000_000


def test_the_work_that_is_planned_is_the_work_that_is_done() -> None:
    plan = plan_network(LATENT, (3, 21, 16), 200_000)
    network = GeneratorNetwork(plan, seeded())
    done = 0

    def count(layer: nn.Module, _: object, result: torch.Tensor) -> None:
        nonlocal done
        done += result[0, 0].numel() * layer.get_parameter("weight").numel() if result.dim() == 4 else 0
        done += layer.get_parameter("weight").numel() if result.dim() == 2 else 0

    for layer in (network.first, *network.convolutions):
        layer.register_forward_hook(count)
    network(torch.zeros(2, LATENT))
    assert done == plan.multiplications <= 200_000


def test_more_work_makes_a_wider_network_and_too_little_the_narrowest() -> None:
    limits = (1, 3_000_000, 10_000_000, 100_000_000)
    widths = [plan_network(LATENT, (3, 64, 64), limit).channels[0] for limit in limits]
    assert widths == sorted(set(widths)) and widths[0] == 8


def test_weights_come_from_the_generator_that_is_given_alone() -> None:
    plan = plan_network(LATENT, (3, 8, 8), 100_000)
    before = torch.random.get_rng_state()
    first, again, other = (GeneratorNetwork(plan, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, same in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(first.first.weight, other.first.weight)
    weight = first.first.weight.detach()
    assert float(weight.abs().max()) <= LATENT**-0.5
    assert float(weight.std()) == pytest.approx((3 * LATENT) ** -0.5, rel=0.05)


def test_the_normalisation_can_be_another() -> None:
    plan = plan_network(LATENT, (3, 8, 8), 100_000)
    asked: list[int] = []
    network = GeneratorNetwork(
        plan, seeded(), normalization=lambda channels: (asked.append(channels), nn.Identity())[1]
    )
    assert tuple(asked) == plan.channels[:-1]
    assert network(torch.zeros(2, LATENT)).shape == (2, 3, 8, 8)
