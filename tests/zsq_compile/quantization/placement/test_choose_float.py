"""The search on closed forms: noise that adds, and prices that add."""

from collections.abc import Mapping, Set

import pytest

from zsq_compile.quantization.placement.choose_float import Floor, Search, floor_of
from zsq_compile.quantization.placement.judge import Judgement

NOISE = {"a": 1e-1, "b": 1e-2, "c": 1e-3, "d": 1e-6}
REST = 1e-5


def search(
    prices: Mapping[str, float], *, most: float | None = None, together: Set[str] = frozenset(), rest: float = REST
) -> tuple[Search, list[frozenset[str]]]:
    """A network whose noise is what its quantized groups bring, and ``rest``; ``together`` go all or none."""
    asked: list[frozenset[str]] = []

    def measure(floats: Set[str]) -> Judgement:
        asked.append(frozenset(floats))
        return Judgement(nsr=rest + sum(own for name, own in NOISE.items() if name not in floats))

    def close(floats: Set[str]) -> frozenset[str]:
        return frozenset(floats | together) if floats & together else frozenset(floats)

    def price(floats: Set[str]) -> float:
        return 10.0 + sum(prices[name] for name in floats)

    return Search(all_groups=frozenset(NOISE), close=close, price=price, measure=measure, most=most), asked


def test_nothing_is_left_out_where_the_floor_is_met_and_one_measurement_is_enough() -> None:
    found, asked = search(dict.fromkeys(NOISE, 1.0))
    choice = found.find(Floor(noise_db=5.0, kept=1.0), lambda: pytest.fail("nobody had to look"))
    assert choice.groups == frozenset()
    assert asked == [frozenset()]


@pytest.mark.parametrize(("floor", "wanted"), [(15.0, {"a"}), (25.0, {"a", "b"}), (40.0, {"a", "b", "c"})])
def test_the_fewest_groups_that_meet_a_floor_are_left(floor: float, wanted: set[str]) -> None:
    found, _ = search(dict.fromkeys(NOISE, 1.0))
    choice = found.find(Floor(noise_db=floor, kept=1.0), lambda: NOISE)
    assert choice.groups == wanted
    assert choice.after.noise_db >= floor > choice.before.noise_db


def test_what_is_cheaper_goes_first_and_what_brings_nothing_goes_back() -> None:
    found, _ = search({"a": 1.0, "b": 1.0, "c": 1.0, "d": -0.5})
    choice = found.find(Floor(noise_db=25.0, kept=1.0), lambda: NOISE)
    assert {"a", "b"} <= choice.groups
    assert "c" not in choice.groups


def test_no_choice_takes_longer_than_it_may() -> None:
    found, _ = search({"a": 1.0, "b": 50.0, "c": 1.0, "d": 1.0}, most=15.0)
    choice = found.find(Floor(noise_db=40.0, kept=1.0), lambda: NOISE)
    assert "a" in choice.groups
    assert "b" not in choice.groups


def test_closed_sets_are_left_whole() -> None:
    found, _ = search(dict.fromkeys(NOISE, 1.0), together={"a", "c"})
    choice = found.find(Floor(noise_db=15.0, kept=1.0), lambda: NOISE)
    assert choice.groups == {"a", "c"}


def test_nothing_is_left_out_where_the_weights_make_the_noise() -> None:
    found, _ = search(dict.fromkeys(NOISE, 1.0), rest=1.0)
    choice = found.find(Floor(noise_db=25.0, kept=1.0), lambda: pytest.fail("nobody had to look"))
    assert choice.groups == frozenset()
    assert choice.limit is not None


def test_a_floor_out_of_reach_is_lowered_to_what_can_be_had() -> None:
    found, _ = search(dict.fromkeys(NOISE, 1.0), rest=1e-2)
    choice = found.find(Floor(noise_db=60.0, kept=1.0), lambda: NOISE)
    assert "a" in choice.groups
    assert "d" not in choice.groups


def test_floors_rise_with_the_quality_asked_for() -> None:
    floors = [floor_of("detection", quality) for quality in ("fast", "balanced", "best")]
    assert floor_of("detection", "off") is None
    decibels = [floor.noise_db for floor in floors if floor is not None]
    assert decibels == sorted(decibels)
    assert len(set(decibels)) == 3
