from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsq_compile.quantization.reconstruction import budget
from zsq_compile.quantization.reconstruction.budget import BlockCost, LearningBudget


class FakeClock:
    """Stands still until somebody works."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr(budget, "time", made)
    return made


def costs(errors: Sequence[float], multiplications: int = 10**5, elements: int = 10**3) -> list[BlockCost]:
    return [BlockCost(multiplications=multiplications, elements=elements, batch=32, error=error) for error in errors]


def planned(effort: str, wanted: Sequence[BlockCost]) -> list[list[float]]:
    budget = LearningBudget(effort=effort)  # type: ignore[arg-type]
    budget.plan(wanted)
    paces = [list(budget.pace(block)) for block in range(len(wanted))]
    assert budget.planned == sum(map(len, paces))
    return paces


def steps(effort: str, wanted: Sequence[BlockCost]) -> list[int]:
    return [len(pace) for pace in planned(effort, wanted)]


def test_steps_are_proportional_to_the_error() -> None:
    small, large = steps("best", costs([0.2, 0.3]))
    assert large == pytest.approx(1.5 * small, abs=1)


def test_no_block_of_equal_cost_gets_more_than_four_times_what_another_gets() -> None:
    got = steps("best", costs([1e-6, 0.1, 0.2, 50.0]))
    assert got == sorted(got)
    assert 3.5 < got[-1] / got[0] <= 4.01


@settings(max_examples=40)
@given(
    errors=st.lists(st.floats(0, 1e3), min_size=1, max_size=30),
    works=st.lists(st.integers(0, 10**7), min_size=30, max_size=30),
    effort=st.sampled_from(["fast", "balanced", "best"]),
)
def test_whatever_the_errors_what_is_0_is_not_learned(errors: list[float], works: list[int], effort: str) -> None:
    wanted = [
        BlockCost(multiplications=work, elements=work // 10, batch=32, error=error)
        for error, work in zip(errors, works, strict=False)
    ]
    paces = planned(effort, wanted)
    for cost, pace in zip(wanted, paces, strict=True):
        assert len(pace) == 0 or (cost.error > 0 and len(pace) >= 20)
        assert pace == sorted(set(pace))
        assert all(0 <= progress < 1 for progress in pace)
    assert effort != "fast" or not any(paces)


def test_nothing_is_planned_where_nothing_is_lost() -> None:
    assert steps("best", costs([0.0, 0.0])) == [0, 0]


def test_more_effort_is_more_steps_and_fast_is_none() -> None:
    wanted = costs([0.1, 0.1])
    fast, balanced, best = (sum(steps(effort, wanted)) for effort in ("fast", "balanced", "best"))
    assert fast == 0 < balanced < best


def test_a_large_network_gets_fewer_steps_than_a_small_one() -> None:
    small, large = (sum(steps("balanced", costs([0.1] * 20, work, work // 100))) for work in (10**5, 10**7))
    assert 0 < large < small


def test_progress_goes_from_0_towards_1() -> None:
    (pace,) = planned("balanced", costs([0.1]))
    assert pace[0] == 0.0
    assert pace[-1] == 1 - 1 / len(pace)


def worked(budget: LearningBudget, clock: FakeClock, blocks: int, seconds: float, between: float = 0.0) -> list[int]:
    """Go through all blocks with steps, and pauses between blocks, that take some seconds: steps of each."""
    counts = []
    for block in range(blocks):
        count = 0
        for progress in budget.pace(block):
            assert 0 <= progress < 1
            clock.now += seconds
            count += 1
        counts.append(count)
        clock.now += between
    return counts


def with_deadline(clock: FakeClock, seconds: float, wanted: Sequence[BlockCost]) -> LearningBudget:
    budget = LearningBudget(effort="balanced", deadline=clock.now + seconds)
    budget.plan(wanted)
    assert budget.planned is None
    return budget


def test_a_deadline_is_honoured_and_used(clock: FakeClock) -> None:
    budget = with_deadline(clock, 100.0, costs([0.1, 0.2, 0.1]))
    counts = worked(budget, clock, 3, 0.1)
    assert 1080.0 < clock.now <= 1100.0
    assert counts[1] == pytest.approx(2 * counts[0], rel=0.1)


@given(
    errors=st.lists(st.floats(0, 10), min_size=1, max_size=12),
    seconds=st.floats(0.5, 1e4),
    share=st.floats(1e-3, 1e-2),
    pause=st.floats(0, 1e-2),
)
def test_no_deadline_is_missed_by_more_than_a_step_and_what_is_done_between_blocks(
    errors: list[float], seconds: float, share: float, pause: float
) -> None:
    clock = FakeClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "time", clock)
        timed = with_deadline(clock, seconds, costs(errors))
        counts = worked(timed, clock, len(errors), share * seconds, pause * seconds)
    assert clock.now <= 1000.0 + seconds * (1.0 + share + len(errors) * pause + 1e-6)
    assert all(count == 0 for count, error in zip(counts, errors, strict=True) if error == 0)


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_after_the_deadline_nothing_is_learned(seconds: float, clock: FakeClock) -> None:
    budget = with_deadline(clock, seconds, costs([0.1, 0.1]))
    assert [list(islice(budget.pace(block), 3)) for block in (0, 1)] == [[], []]


def test_with_a_deadline_too_what_is_0_gets_no_time(clock: FakeClock) -> None:
    budget = with_deadline(clock, 10.0, costs([0.0, 0.1, 0.0]))
    assert list(islice(budget.pace(0), 3)) == []
    assert worked(budget, clock, 3, 0.5)[1] > 10
    assert list(islice(budget.pace(2), 3)) == []


def test_time_that_a_block_leaves_goes_to_those_behind_it(clock: FakeClock) -> None:
    budget = with_deadline(clock, 30.0, costs([0.1, 0.1, 0.1]))
    next(iter(budget.pace(0)))  # the first block stops at once
    for block in (1, 2):
        for _ in budget.pace(block):
            clock.now += 0.1
    assert 1028.5 < clock.now <= 1030.0


def test_other_work_gets_at_most_half_of_what_a_block_has_under_a_deadline(clock: FakeClock) -> None:
    budget = LearningBudget(effort="balanced", deadline=clock.now + 100)
    budget.plan(costs([1.0, 1.0]))
    assert budget.has_time(0, 20)  # the share is 50 seconds, less a reserve
    assert not budget.has_time(0, 26)
    assert budget.has_time(1, 40)
    clock.now += 101
    assert not budget.has_time(0, 0)
    assert LearningBudget(effort="balanced").has_time(0, 1e9)
