from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from backends.target import NumberFormat
from zsq_compile.config.compile import LearnedRounding
from zsq_compile.quantization.reconstruction.learned_weights import LearnedWeight, SoftRounding, grow, make_learnable

ROUNDINGS = get_args(LearnedRounding)
SOFT = ("adaround", "genie-m")


def grid(bits: int) -> NumberFormat:
    return NumberFormat(bits=bits, signed=True, symmetric=True, narrow=False)


def started(
    rounding: LearnedRounding, bits: int = 4, *, seed: int = 0, moved: int = 0, reach: float = 1.2
) -> tuple[LearnedWeight, Tensor, Tensor, Tensor]:
    """A learnable (8, 3, 5) weight, its float weight, starting codes up to ``moved`` away from it, and steps."""
    rng, number_format = torch.Generator().manual_seed(seed), grid(bits)
    step = torch.rand((8, 1, 1), generator=rng) * 0.3 + 0.01
    weight = torch.randn((8, 3, 5), generator=rng) * step * number_format.qmax * reach / 2
    codes = (weight / step).round()
    if moved:
        codes = codes + torch.randint(-moved, moved + 1, codes.shape, generator=rng)
    codes = codes.clamp(number_format.qmin, number_format.qmax)
    return make_learnable(rounding, weight, codes, step, number_format), weight, codes, step


@given(
    rounding=st.sampled_from(ROUNDINGS),
    bits=st.sampled_from((2, 3, 4, 7)),
    seed=st.integers(0, 2**31),
    moved=st.integers(0, 3),
)
def test_nothing_is_changed_at_the_start(rounding: LearnedRounding, bits: int, seed: int, moved: int) -> None:
    learned, _, codes, step = started(rounding, bits, seed=seed, moved=moved)
    assert torch.equal(learned.codes(), codes)
    assert torch.equal(learned.step(), step)
    if rounding == "lsq":
        assert torch.equal(learned.values(), codes * step)
    else:  # soft codes lie between two integers, of which the nearer one is the start's
        soft = learned.values() / step
        assert (soft - codes).abs().max().item() <= 0.5 + 1e-4


@pytest.mark.parametrize("rounding", SOFT)
def test_soft_codes_start_at_the_float_weight_as_far_as_they_reach(rounding: LearnedRounding) -> None:
    learned, weight, codes, step = started(rounding, 4, reach=0.8)
    real = weight / step
    inside = (real - codes).abs() < 0.47
    inside &= (real - codes).abs() > 0.03
    assert float(inside.float().mean()) > 0.5
    torch.testing.assert_close((learned.values() / step)[inside], real[inside], rtol=0, atol=1e-4)


@given(
    rounding=st.sampled_from(ROUNDINGS),
    bits=st.sampled_from((2, 3, 4)),
    seed=st.integers(0, 2**31),
    size=st.floats(0.0, 100.0),
)
def test_codes_stay_on_the_grid_however_far_learning_goes(
    rounding: LearnedRounding, bits: int, seed: int, size: float
) -> None:
    learned, _, start, _ = started(rounding, bits, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        learned.logits.add_(size * torch.randn(learned.logits.shape, generator=rng))
        if learned.growth is not None:
            learned.growth.add_(torch.randn(learned.growth.shape, generator=rng))
    codes, number_format = learned.codes(), grid(bits)
    assert torch.equal(codes, codes.round())
    assert number_format.qmin <= float(codes.min()) <= float(codes.max()) <= number_format.qmax
    assert not codes.requires_grad
    assert learned.step().min().item() > 0
    soft = learned.values() / learned.step()
    # a code of 2 bits is one of four, and what the network runs with never lies outside of them
    assert number_format.qmin - 1e-4 <= soft.min().item() <= soft.max().item() <= number_format.qmax + 1e-4
    if rounding in SOFT:
        assert float((codes - start).abs().max()) <= 1


def test_straight_through_values_have_the_gradients_of_learned_step_size_quantization() -> None:
    learned, _, codes, step = started("lsq", 3, reach=3.0)
    weight = torch.randn(codes.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        learned.logits.add_(0.4 * weight.sign())
    (learned.values() * weight).sum().backward()
    outside = (learned.logits < -4) | (learned.logits > 3)
    assert 0 < int(outside.sum()) < outside.numel()
    wanted = torch.where(outside, torch.zeros(()), weight * step)
    assert learned.growth is not None
    torch.testing.assert_close(learned.logits.grad, wanted)
    torch.testing.assert_close(learned.growth.grad, (weight * codes * step).sum((1, 2), keepdim=True))


@pytest.mark.parametrize("rounding", SOFT)
def test_soft_values_have_their_true_gradients(rounding: LearnedRounding) -> None:
    learned, _, _, _ = started(rounding, 3)
    assert isinstance(learned, SoftRounding)
    learned.double()
    learned._base, learned._start = learned._base.double(), learned._start.double()
    parameters = [learned.logits] if learned.growth is None else [learned.logits, learned.growth]
    analytic = torch.autograd.grad((learned.values() ** 2).sum(), parameters)
    change = 1e-6
    for parameter, gradient in zip(parameters, analytic, strict=True):
        for place in [(0, 0, 0), (3, 0, 0), (7, 0, 0)]:
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[place] += sign * change
                    sides.append((learned.values() ** 2).sum().item())
                    parameter[place] -= sign * change
            assert (sides[0] - sides[1]) / (2 * change) == pytest.approx(float(gradient[place]), rel=1e-4, abs=1e-8)


def test_what_each_rounding_learns() -> None:
    assert {name: started(name)[0].growth is not None for name in ROUNDINGS} == {
        "adaround": False,
        "genie-m": True,
        "lsq": True,
    }
    for name in ROUNDINGS:
        learned, weight, _, step = started(name)
        assert learned.logits.shape == weight.shape
        assert learned.growth is None or learned.growth.shape == step.shape


@pytest.mark.parametrize("rounding", SOFT)
def test_settled_codes_are_left_alone(rounding: LearnedRounding) -> None:
    learned, _, codes, step = started(rounding)
    side = torch.where(learned.logits > 0, 9.0, -9.0)
    with torch.no_grad():
        learned.logits.copy_(side)
    assert torch.equal(learned.codes(), codes)
    assert torch.equal(learned.values(), codes * step)
    assert learned.unsettled() == 0.0
    for progress in (0.2, 0.5, 0.999):
        push = learned.regulariser(progress)
        assert push is not None
        assert push.item() == 0.0


@pytest.mark.parametrize("progress", [0.25, 0.6, 0.95])
@pytest.mark.parametrize("rounding", SOFT)
def test_undecided_codes_are_pushed_to_the_nearer_side(rounding: LearnedRounding, progress: float) -> None:
    learned, _, _, _ = started(rounding)
    with torch.no_grad():
        learned.logits.uniform_(-1.5, 1.5, generator=torch.Generator().manual_seed(0))
    push = learned.regulariser(progress)
    assert push is not None
    assert 0.0 < push.item() <= learned.logits.numel()
    push.backward()
    downhill = -learned.logits.grad
    decided = downhill.abs() > 1e-3
    assert float(decided.float().mean()) > 0.1
    assert torch.equal(downhill[decided] > 0, learned.logits[decided] > 0)
    before = learned.codes()
    with torch.no_grad():
        learned.logits.add_(0.1 * downhill.sign())
    assert float((learned.codes() == before).float().mean()) > 0.95  # but for those right on the edge
    assert learned.regulariser(progress).item() < push.item()


def test_the_push_begins_late_and_reaches_ever_more_codes() -> None:
    learned, _, _, _ = started("adaround")
    assert learned.regulariser(0.0) is None
    assert learned.regulariser(0.1) is None
    half_decided = []
    for progress in (0.3, 0.6, 0.9):
        learned.logits.grad = None
        push = learned.regulariser(progress)
        assert push is not None
        push.backward()
        assert learned.logits.grad is not None
        half_decided.append(float((learned.logits.grad.abs() > 0.05).float().mean()))
    assert half_decided[0] < half_decided[1] < half_decided[2]
    assert started("lsq")[0].regulariser(0.9) is None


def test_unsettled_is_the_share_between_two_integers() -> None:
    learned, _, _, _ = started("adaround")
    with torch.no_grad():
        learned.logits.fill_(9.0)
        learned.logits[0] = 0.0
        learned.logits[1] = -9.0
    assert learned.unsettled() == pytest.approx(1 / 8)
    assert started("lsq")[0].unsettled() == 0.0


@given(growth=st.floats(-20, 20))
def test_steps_stay_positive_and_grow_by_shares_of_themselves(growth: float) -> None:
    start = torch.tensor([1e-6, 0.1, 30.0])
    got = grow(start, torch.full((3,), growth))
    assert float(got.min()) > 0
    torch.testing.assert_close(got / start, torch.full((3,), growth).exp())
    assert grow(start, None) is start


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_learning_finds_better_codes_than_those_it_starts_from(rounding: LearnedRounding) -> None:
    """One layer of correlated inputs, for which the codes next to the weights are not the best."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn((8, 12), generator=rng)
    data = torch.randn((64, 12), generator=rng) + 3 * torch.randn((64, 1), generator=rng)
    step = weight.abs().amax(1, keepdim=True) / 3
    codes = (weight / step).round().clamp(-4, 3)
    learned = make_learnable(rounding, weight, codes, step, grid(3))
    wanted = data @ weight.T

    def error() -> float:
        return float((data @ (learned.codes() * learned.step()).T - wanted).square().mean().detach())

    before = error()
    parameters = [learned.logits] if learned.growth is None else [learned.logits, learned.growth]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for i in range(150):
        loss = (data @ learned.values().T - wanted).square().mean() / before
        push = learned.regulariser(i / 150)
        optimizer.zero_grad()
        (loss if push is None else loss + 0.5 * push / weight.numel()).backward()
        optimizer.step()
    assert error() < 0.7 * before
