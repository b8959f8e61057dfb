import numpy as np
import pytest
import torch

from tests import models
from tests.zsq_compile.synthesis.networks import NO_STATISTICS, seeded, spec, teacher_of, trained_on
from zsq_compile.differentiable.module import TorchGraph
from zsq_compile.synthesis.generator import InputContract
from zsq_compile.synthesis.images.dead_leaves import prior_images
from zsq_compile.synthesis.preprocessing.infer import candidate_contracts, given_contract, infer_contract


@pytest.mark.parametrize("contract", candidate_contracts(3), ids=lambda contract: contract.name)
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_the_contract_that_a_network_was_trained_under_is_found(contract: InputContract, batch: int | None) -> None:
    pictures = contract.encode(prior_images(64, 3, 20, 20, seeded(99))).numpy()
    teacher, statistics = teacher_of(trained_on(pictures))
    found = infer_contract(teacher, statistics, spec(batch, 3, 20, 20), seeded())
    assert found.name == contract.name
    assert (found.mean, found.std, found.channel_order) == (contract.mean, contract.std, contract.channel_order)
    assert found.inferred
    assert found.margin is not None and found.margin > 1.5


@pytest.mark.parametrize("contract", candidate_contracts(1), ids=lambda contract: contract.name)
def test_the_contract_is_found_for_gray_images(contract: InputContract) -> None:
    pictures = contract.encode(prior_images(64, 1, 20, 20, seeded(99))).numpy()
    teacher, statistics = teacher_of(trained_on(pictures))
    assert infer_contract(teacher, statistics, spec(None, 1, 20, 20), seeded()).name == contract.name


def test_large_images_are_judged_at_a_reduced_size() -> None:
    pictures = prior_images(8, 3, 200, 160, seeded(99)).numpy() * 255.0
    teacher, statistics = teacher_of(trained_on(pictures))
    seen: list[tuple[int, ...]] = []
    run = teacher.run
    teacher.run = lambda feeds, *rest, **more: (seen.append(tuple(feeds["x"].shape)), run(feeds, *rest, **more))[1]
    assert infer_contract(teacher, statistics, spec(None, 3, 200, 160), seeded()).name == "byte"
    assert set(seen) == {(16, 3, 96, 80)}


def test_statistics_that_no_contract_explains_decide_nothing() -> None:
    teacher, statistics = teacher_of(trained_on(30.0 + prior_images(16, 3, 20, 20, seeded(99)).numpy()))
    found = infer_contract(teacher, statistics, spec(None, 3, 20, 20), seeded())
    assert (found.name, found.inferred, found.margin) == ("imagenet", False, None)


def test_without_statistics_the_contract_is_assumed() -> None:
    teacher, _ = teacher_of(models.residual())
    found = infer_contract(teacher, NO_STATISTICS, spec(None, 3, 8, 8), seeded())
    assert (found.name, found.inferred, found.margin) == ("imagenet", False, None)


def test_raw_pixels_are_assumed_where_biases_dwarf_all_others() -> None:
    weights = np.random.default_rng(0).normal(0.0, 0.003, (4, 3, 3, 3))
    model = models.parse(
        """
        raw (float[N,3,8,8] x) => (float[N,4,6,6] y) <float[4,3,3,3] w, float[4] b>
        { y = Conv(x, w, b) }
        """,
        weights={"w": weights, "b": np.array([1.0, -1.0, 2.0, 0.5])},
    )
    teacher, _ = teacher_of(model)
    assert infer_contract(teacher, NO_STATISTICS, spec(None, 3, 8, 8), seeded()).name == "byte"


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ("s = Div(x, c)", {"c": 255.0, "name": "byte"}),
        ("s = Mul(x, c)", {"c": 1.0 / 255, "name": "byte"}),
        ("s = Sub(x, c)", {"c": 127.5, "name": "byte"}),
        ("s = Sub(x, c)", {"c": 0.5, "name": "unit"}),
    ],
)
def test_a_graph_that_scales_its_input_itself_is_fed_raw_pixels(scaling: str, expected: dict[str, float]) -> None:
    model = models.parse(
        f"""
        scaled (float[N,3,8,8] x) => (float[N,4,6,6] y) <float[1] c, float[4,3,3,3] w, float[4] b>
        {{ {scaling}
           y = Conv(s, w, b) }}
        """,
        weights={"c": np.array([expected["c"]])},
    )
    teacher, _ = teacher_of(model)
    assert infer_contract(teacher, NO_STATISTICS, spec(None, 3, 8, 8), seeded()).name == expected["name"]


def by_brightness(*, middle: float, gain: float, producer: str = "") -> TorchGraph:
    """Two classes: whether the mean is farther from 0 than ``middle``, the surer the larger ``gain``."""
    model = models.parse(
        """
        bright (float[N,3,8,8] x) => (float[N,2] logits) <float[3,2] w, float[2] b, int64[2] axes = {2, 3}>
        { m = ReduceMean<keepdims=0>(x, axes) a = Abs(m) logits = Gemm(a, w, b) }
        """,
        weights={"w": np.array([[gain / 3, 0.0]] * 3), "b": np.array([-gain * middle, 0.0])},
    )
    model.producer_name = producer
    return teacher_of(model)[0]


@pytest.mark.parametrize("batch", [None, 3])
def test_decisions_that_are_various_on_small_numbers_outweigh_the_producer(batch: int | None) -> None:
    teacher = by_brightness(middle=0.7, gain=10.0, producer="CNTK")
    found = infer_contract(teacher, NO_STATISTICS, spec(batch, 3, 8, 8), seeded())
    assert (found.name, found.inferred, found.margin) == ("imagenet", False, None)
    assert "times more telling on small numbers" in found.reason


def test_where_decisions_tell_nothing_the_producer_does() -> None:
    for producer, name in (("CNTK", "byte"), ("pytorch", "imagenet")):
        teacher = by_brightness(middle=0.0, gain=0.0, producer=producer)
        found = infer_contract(teacher, NO_STATISTICS, spec(None, 3, 8, 8), seeded())
        assert (found.name, found.inferred, found.margin) == (name, False, None)


def test_encode_and_decode_are_inverse_and_differentiable() -> None:
    pixels = torch.rand(2, 3, 4, 5, generator=seeded()).double().requires_grad_()
    for contract in candidate_contracts(3):
        torch.testing.assert_close(contract.decode(contract.encode(pixels)), pixels)
        assert torch.autograd.gradcheck(contract.encode, (pixels,))


def test_bgr_is_the_mean_free_picture_in_reverse_order() -> None:
    bgr = next(contract for contract in candidate_contracts(3) if contract.name == "byte_bgr")
    encoded = bgr.encode(torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)).flatten()
    np.testing.assert_allclose(encoded, (0.0 - 104.0, 127.5 - 117.0, 255.0 - 123.0), atol=1e-4)


def test_given_contracts_follow_the_users_words() -> None:
    scaled = given_contract(3, input_range=(-1.0, 3.0))
    pixels = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 1, 1)
    np.testing.assert_allclose(scaled.encode(pixels)[:, 0].flatten(), (-1.0, 1.0, 3.0), atol=1e-6)
    assert given_contract(3, (0.5,), (0.25,)).mean == (0.5, 0.5, 0.5)
    assert given_contract(1, (0.5,), (0.25,)).channel_order == "gray"
    with pytest.raises(ValueError, match="wanted 1 or 3 numbers for mean and std, got 2 and 2"):
        given_contract(3, (0.5, 0.5), (0.2, 0.2))
    with pytest.raises(ValueError, match="wanted mean and std, or input_range"):
        given_contract(3, mean=(0.5,))
