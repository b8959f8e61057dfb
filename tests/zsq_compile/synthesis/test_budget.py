import pytest

from zsq_compile.synthesis.budget import Allowance, plan_budget
from zsq_compile.synthesis.probe import Cost

SMALL = Cost(multiplications=1_000_000, elements=10_000)
LARGE = Cost(multiplications=1_000_000_000, elements=50_000_000)


def test_more_effort_is_more_work() -> None:
    fast, balanced, best = (plan_budget(64, effort, SMALL).iterations for effort in ("fast", "balanced", "best"))
    assert 0 < fast < balanced < best


def test_costly_networks_get_fewer_iterations_until_none_is_worth_it() -> None:
    counts = [plan_budget(count, "balanced", LARGE).iterations for count in (1, 64, 100_000)]
    assert counts[0] > counts[1] > counts[2] == 0


def test_what_the_user_chose_is_kept() -> None:
    plan = plan_budget(100_000, "fast", LARGE, iterations=7, batch_size=3)
    assert (plan.iterations, plan.batch_size) == (7, 3)


def test_an_allowance_sets_what_is_wanted_and_what_is_worth_it() -> None:
    efforts = ("fast", "balanced", "best")
    allowance = Allowance(iterations=dict.fromkeys(efforts, 700), seconds=dict.fromkeys(efforts, 10.0), fewest=50)
    counts = [plan_budget(count, "fast", LARGE, allowance=allowance).iterations for count in (1, 2)]
    assert plan_budget(1, "fast", SMALL, allowance=allowance).iterations == 700
    assert counts[0] == int(10.0 / (1e9 / 40e9 + 50e6 / 0.4e9)) and counts[1] == 0


@pytest.mark.parametrize("count", [1, 5, 128, 129, 300])
def test_batches_share_the_set_evenly(count: int) -> None:
    size = plan_budget(count, "fast", SMALL).batch_size
    assert 1 <= size <= 128
    turns = -(-count // size)
    assert turns == -(-count // 128)
    assert count - (turns - 1) * size > size // 2


def test_batches_of_large_networks_are_small() -> None:
    assert plan_budget(64, "fast", LARGE).batch_size == 2


def test_twice_as_many_samples_of_half_the_precision_fit() -> None:
    costs = [Cost(multiplications=1, elements=8_000_000, element_bytes=size) for size in (4, 2)]
    full, half = (plan_budget(1000, "fast", cost).batch_size for cost in costs)
    assert full == 16 and half == -(-1000 // -(-1000 // 33))
