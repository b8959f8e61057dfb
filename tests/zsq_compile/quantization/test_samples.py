"""Batches that fit in memory, and which samples learn, tune and judge."""

from dataclasses import replace

import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common

from tests.models import parse
from zsq_compile.quantization import samples as samples_module
from zsq_compile.quantization.samples import Samples, count_live_bytes

BRANCH = """
    g (float[N,2,4,4] x) => (float[N,1,4,4] y)
    <float[8,2,1,1] wide, float[8,8,1,1] same, float[1,8,1,1] thin>
    { a = Conv(x, wide) b = Relu(a) c = Conv(b, same) d = Add(c, a) y = Conv(d, thin) }
    """


def branch() -> ir.Model:
    return common.ShapeInferencePass()(ir.from_proto(parse(BRANCH))).model


def test_live_bytes_are_those_of_the_fullest_moment() -> None:
    # at the Add: the input, a, which is read again, c and what the Add makes
    assert count_live_bytes(branch()) == 4 * 16 * (2 + 8 + 8 + 8)


@pytest.mark.parametrize(("fixed", "sizes"), [(None, [3, 3, 3, 1]), (5, [5, 5])])
def test_batches_are_as_large_as_memory_allows(
    fixed: int | None, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, model = Samples(inputs={"x": torch.zeros(10, 2, 4, 4)}, fixed=fixed), branch()
    monkeypatch.setattr(samples_module, "_LIVE_BYTES", 3 * count_live_bytes(model) + 1)
    assert [len(batch["x"]) for batch in samples.fitting(model)] == sizes
    assert [len(batch["x"]) for batch in samples.join(model)] == (sizes if fixed else sizes[:1])
    monkeypatch.setattr(samples_module, "_LIVE_BYTES", 1)  # one sample has to do
    assert {len(batch["x"]) for batch in samples.fitting(model)} == {fixed or 1}


@pytest.mark.parametrize(("fixed", "kept"), [(None, 4), (2, 4), (3, 3), (8, 8)])
def test_outputs_that_are_compared_are_bounded(fixed: int | None, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "_OUTPUT_BYTES", 4 * 4 * 16)  # four outputs
    samples = Samples(inputs={"x": torch.zeros(24, 2, 4, 4)}, fixed=fixed)
    assert samples.comparable(branch()).count == kept


@pytest.mark.parametrize("fixed", [None, 2])
def test_all_samples_are_dealt_before_any_comes_again(fixed: int | None) -> None:
    samples = Samples(inputs={"x": torch.zeros(12, 1)}, fixed=fixed)
    chosen = torch.tensor([0, 1, 4, 5, 6, 7, 10, 11])
    dealt = samples.deal(chosen, 4, torch.Generator().manual_seed(0))
    for _ in range(3):
        turn = torch.cat([next(dealt), next(dealt)])
        assert sorted(turn.tolist()) == chosen.tolist()
        if fixed:
            assert bool((turn.reshape(-1, 2)[:, 1] - turn.reshape(-1, 2)[:, 0] == 1).all())
    assert len(next(samples.deal(chosen[:2], 4, torch.Generator()))) == 2


@pytest.mark.parametrize("fixed", [None, 2])
def test_what_tunes_is_apart_from_what_judges(fixed: int | None) -> None:
    samples = Samples(inputs={"x": torch.zeros(40, 1)}, fixed=fixed)
    trained, judged = samples.split()
    fitted, tuned = samples.split(trained)
    assert sorted(torch.cat([fitted, tuned, judged]).tolist()) == list(range(40))
    assert len(tuned) > 0


def test_every_part_of_samples_has_all_populations() -> None:
    numbers = torch.tensor([0, 1] * 20)
    samples = Samples(inputs={"x": torch.arange(40.0)[:, None]}, populations=numbers)
    for half in samples.halves():
        assert half.populations is not None
        assert torch.bincount(half.populations).tolist() == [10, 10]
    for part in samples.split():
        assert set(numbers[part].tolist()) == {0, 1}
    parts = samples.parts()
    assert [set((part.inputs["x"] % 2).flatten().tolist()) for part in parts] == [{0.0}, {1.0}]
    assert all(part.populations is None for part in parts)


def test_what_is_improbable_beside_another_is_left_out() -> None:
    samples = Samples(
        inputs={"x": torch.arange(9.0)[:, None]}, populations=torch.tensor([0, 1, 2] * 3), probabilities=(0.7, 0.2, 0.1)
    )
    assert set((samples.probable().inputs["x"] % 3).flatten().tolist()) == {0.0, 1.0}
    alone = replace(samples, probabilities=(0.9, 0.06, 0.04)).probable()
    assert alone.populations is None
    assert alone.inputs["x"].flatten().tolist() == [0.0, 3.0, 6.0]
