import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsq_compile.quantization.mixed_precision.bit_allocation import LayerOptions, WidthTable


def layer(node: str, count: int, nsr: float, *, digits: bool = True) -> LayerOptions:
    """The NSR falls to a quarter with each bit, as that of rounding does."""
    size = {bits: count * (bits if digits or bits not in (2, 3) else 4) // 8 for bits in (2, 3, 4, 8)}
    return LayerOptions(node=node, size=size, nsr={bits: nsr * 4.0**-bits for bits in size})


def total(layers: list[LayerOptions], bits: dict[str, int], what: str) -> float:
    return sum(getattr(one, what)[bits[one.node]] for one in layers)


def best_by_trying(layers: list[LayerOptions], budget: int) -> float:
    found = [
        sum(one.nsr[bits] for one, bits in zip(layers, choice, strict=True))
        for choice in itertools.product(*(one.size for one in layers))
        if sum(one.size[bits] for one, bits in zip(layers, choice, strict=True)) <= budget
    ]
    return min(found, default=float("inf"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(8, 2000), st.floats(0.0, 100.0)), min_size=1, max_size=5),
    st.floats(0.0, 1.0),
    st.booleans(),
)
def test_the_choice_is_the_best_of_all(sizes: list[tuple[int, float]], share: float, digits: bool) -> None:
    layers = [layer(f"n{i}", count, nsr, digits=digits) for i, (count, nsr) in enumerate(sizes)]
    table = WidthTable(layers)
    budget = int(table.smallest + share * (table.largest - table.smallest))
    bits = table.least_nsr(budget)
    assert bits is not None
    assert total(layers, bits, "size") <= budget
    # the range is below 20,000 bytes, so that a unit is a byte and nothing is lost to rounding
    assert total(layers, bits, "nsr") == pytest.approx(best_by_trying(layers, budget), rel=1e-9, abs=1e-300)


def test_large_layers_lose_at_most_a_unit_each() -> None:
    rng = np.random.default_rng(0)
    layers = [layer(f"n{i}", int(10 ** rng.uniform(3, 6)), float(rng.uniform(0, 1))) for i in range(6)]
    table = WidthTable(layers)
    unit = (table.largest - table.smallest) // 20_000 + 1
    for share in (0.1, 0.35, 0.6, 0.9):
        budget = int(table.smallest + share * (table.largest - table.smallest))
        bits = table.least_nsr(budget)
        assert bits is not None
        assert total(layers, bits, "size") <= budget
        assert total(layers, bits, "nsr") <= best_by_trying(layers, budget - 6 * unit) * (1 + 1e-9)


def test_a_big_layer_that_does_not_fit_leaves_its_bytes_to_the_others() -> None:
    # Per byte the classifier saves most noise, but its next width never fits: a greedy rule would stop there.
    layers = [layer("classifier", 8000, 1000.0), layer("a", 800, 1.0), layer("b", 800, 1.0)]
    table = WidthTable(layers)
    bits = table.least_nsr(table.smallest + 800)
    assert bits == {"classifier": 2, "a": 4, "b": 8} or bits == {"classifier": 2, "a": 8, "b": 4}


def test_bits_that_cost_no_bytes_are_taken() -> None:
    table = WidthTable([layer("a", 800, 0.0, digits=False)])
    assert table.least_nsr(table.smallest) == {"a": 4}
    assert [choice["a"] for choice in table.by_size(100)] == [4, 8]


def test_too_few_bytes_have_no_choice() -> None:
    table = WidthTable([layer("a", 800, 1.0)])
    assert table.least_nsr(table.smallest - 1) is None
    assert table.least_nsr(table.smallest) == {"a": 2}
    assert table.least_nsr(10**9) == {"a": 8}


def test_more_bits_never_count_as_noisier() -> None:
    odd = LayerOptions(node="a", size={4: 400, 8: 800}, nsr={4: 0.1, 8: 0.2})
    even = LayerOptions(node="b", size={4: 400, 8: 800}, nsr={4: 0.3, 8: 0.2})
    assert WidthTable([odd, even]).least_nsr(1200) == {"a": 4, "b": 8}


def test_choices_by_size_go_from_all_narrow_to_all_wide() -> None:
    layers = [layer(f"n{i}", 100 * (i + 1), float(i + 1)) for i in range(4)]
    choices = WidthTable(layers).by_size(20)
    sizes = [total(layers, bits, "size") for bits in choices]
    ratios = [total(layers, bits, "nsr") for bits in choices]
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)
    assert ratios == sorted(ratios, reverse=True)
    assert set(choices[0].values()) == {2} and set(choices[-1].values()) == {8}
    assert len(choices) <= 20


def test_a_single_width_is_no_choice() -> None:
    table = WidthTable([LayerOptions(node="a", size={8: 10}, nsr={8: 0.0})])
    assert table.least_nsr(10) == {"a": 8}
    assert table.by_size(5) == [{"a": 8}]


def test_sizes_without_nsr_are_refused() -> None:
    with pytest.raises(ValueError, match="a needs the size and the NSR"):
        LayerOptions(node="a", size={8: 10}, nsr={4: 0.0})
