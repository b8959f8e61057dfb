import math

import pytest

from zsq_compile.synthesis.preprocessing.plan_scan import fill_between, find_chains, plan_scan
from zsq_compile.synthesis.preprocessing.trial_costs import TrialCost
from zsq_compile.synthesis.preprocessing.watch_scales import Sight

GAINS = [10.0 ** (half / 2) for half in range(-3, 9)]
CHAINS = find_chains(
    ["sound"] * 12 + ["levelled"], [*GAINS, 1.0], [1.0 if gain == 1.0 else 0.1 for gain in GAINS] + [1]
)


def sight(width: float) -> Sight:
    return Sight(first=width, inner=width, last=width, first_bias=-width, inner_bias=0.0,
                 centre=1.0, first_centre=2.0, firm=0.5, varied=0.0)  # fmt: skip


def plan(work: int, batch: int = 1, most: int = 100_000, numbers: int = 100):
    return plan_scan(CHAINS, TrialCost(work=work, elements=work, watched=1), numbers, batch, most)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("work", [1, 100, 600, 900, 1500, 3000, 6000, 9000, 12_000])
def test_a_scan_never_takes_more_than_it_may(work: int, batch: int) -> None:
    found = plan(work, batch)
    if found is None:
        assert 5 * max(batch, 2) * work > 100_000  # ends, middle and usual one; the other kind
        return
    assert found.samples * len(found.tried) * work <= 100_000
    assert found.samples % batch == found.together % batch == 0
    assert found.samples >= batch
    for chain in CHAINS:  # ends and the usual one are never left out, so that all between can be interpolated
        assert {chain.members[0], chain.members[-1], chain.usual} <= found.tried


def test_a_small_network_is_tried_at_all_scales_and_a_large_one_at_few() -> None:
    small, middle, large = plan(10), plan(1500), plan(9000)
    assert small is not None and middle is not None and large is not None
    assert (small.samples, len(small.tried)) == (32, 13)
    assert 13 > len(middle.tried) > len(large.tried)
    assert plan(12_000) is None


def test_large_samples_are_few_and_batches_stay_whole() -> None:
    large, batched = plan(1, numbers=1 << 20), plan(1, batch=64)
    assert large is not None and batched is not None
    assert large.samples == 2
    assert batched.samples == 64


def test_what_is_not_tried_lies_between_its_neighbours() -> None:
    seen = [sight(math.log(gain)) if number % 3 == 0 or number == 11 else None for number, gain in enumerate(GAINS)]
    filled = fill_between(CHAINS, [*GAINS, 1.0], [*seen, None])
    for gain, one in zip(GAINS, filled, strict=False):
        assert one is not None
        assert one.first == pytest.approx(math.log(gain))
        assert (one.centre, one.firm) == pytest.approx((1.0, 0.5))
    assert filled[12] is None


def test_behind_the_last_that_could_be_run_nothing_is_made_up() -> None:
    seen = [sight(0.0) if number in (0, 3, 6) else None for number in range(13)]
    assert [one is not None for one in fill_between(CHAINS, [*GAINS, 1.0], seen)] == [True] * 7 + [False] * 6
