import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backends.target import NumberFormat
from zsq_compile.quantization.calibration.scales import choose_steps
from zsq_compile.quantization.rounding import cholesky, gptq, second_moments
from zsq_compile.quantization.rounding.gptq import Compensation, choose_step
from zsq_compile.quantization.rounding.second_moments import SecondMoments

FOUR_BITS = NumberFormat(bits=4, signed=True, symmetric=True)


def draw(seed: int, groups: int, rows: int, size: int, samples: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, second moments of strongly correlated columns, and steps."""
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, rows, size, generator=rng, dtype=torch.float64)
    mixing = torch.randn(groups, size, size, generator=rng, dtype=torch.float64)
    columns = mixing @ torch.randn(groups, size, samples, generator=rng, dtype=torch.float64)
    step = choose_steps(weight.flatten(0, 1), FOUR_BITS, "mse").reshape(groups, rows)
    return weight, columns @ columns.transpose(1, 2) / samples, step


def moments_of(matrix: torch.Tensor) -> SecondMoments:
    """Moments that are a given matrix, as near as float32 has it."""
    moments = SecondMoments(*matrix.shape[:2])
    moments.observe(matrix.float(), torch.eye(matrix.shape[1]).expand_as(matrix))
    moments.count = 1
    return moments


def round_with_compensation(weight: torch.Tensor, matrix: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return Compensation(moments_of(matrix)).round(weight, step, FOUR_BITS)


def cost(codes: torch.Tensor, weight: torch.Tensor, matrix: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    error = codes * step[..., None] - weight
    return ((error @ matrix) * error).sum(2)


def nearest(weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return torch.clamp(torch.round(weight / step[..., None]), FOUR_BITS.qmin, FOUR_BITS.qmax)


def by_definition(weight: np.ndarray, matrix: np.ndarray, step: float, damping: float) -> np.ndarray:
    """OBQ of one row: after each rounding, minimise over what is left in closed form (least squares)."""
    order = np.argsort(-np.diag(matrix), kind="stable")
    damped = matrix + damping * np.mean(np.diag(matrix)) * np.eye(len(matrix))
    left, codes = weight.copy(), np.zeros_like(weight)
    open_columns = list(order)
    for column in order:
        codes[column] = np.clip(np.rint(left[column] / step), FOUR_BITS.qmin, FOUR_BITS.qmax)
        error = left[column] - codes[column] * step
        open_columns.remove(column)
        rest = np.array(open_columns, int)
        if len(rest):
            left[rest] += error * np.linalg.solve(damped[np.ix_(rest, rest)], damped[rest, column])
    return codes


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_codes_are_those_of_the_definition(seed: int) -> None:
    weight, matrix, step = draw(seed, 2, 3, 7, 40)
    codes = round_with_compensation(weight, matrix, step)
    for group in range(2):
        for row in range(3):
            wanted = by_definition(weight[group, row].numpy(), matrix[group].numpy(), float(step[group, row]), 0.01)
            assert np.array_equal(codes[group, row].numpy(), wanted)


@pytest.mark.parametrize(("groups", "size"), [(1, 300), (16, 9)], ids=["dense, several blocks", "depthwise"])
def test_the_output_error_falls_far_below_that_of_rounding_to_the_nearest(groups: int, size: int) -> None:
    weight, matrix, step = draw(0, groups, 4, size, 2 * size)
    codes = round_with_compensation(weight, matrix, step)
    assert codes.abs().max() <= 8
    assert torch.equal(codes, codes.round())
    ratio = cost(codes, weight, matrix, step).sum() / cost(nearest(weight, step), weight, matrix, step).sum()
    assert ratio < 0.6


def test_uncorrelated_columns_are_rounded_to_the_nearest() -> None:
    weight, _, step = draw(1, 1, 4, 12, 40)
    codes = round_with_compensation(weight, torch.eye(12, dtype=torch.float64)[None], step)
    assert torch.equal(codes, nearest(weight, step))


def test_a_column_that_is_never_used_does_not_break_the_factor() -> None:
    weight, matrix, step = draw(2, 1, 4, 12, 40)
    matrix[:, 3, :] = 0.0
    matrix[:, :, 3] = 0.0
    assert torch.isfinite(round_with_compensation(weight, matrix, step)).all()
    assert torch.isfinite(round_with_compensation(weight, torch.zeros_like(matrix), step)).all()


def plain(weight: torch.Tensor, matrix: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 of the paper with the inverse and its factor as whole matrices, column by column; one group."""
    order = matrix.diagonal().argsort(descending=True)
    damped = matrix[order][:, order] + 0.01 * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    left, codes = weight[:, order].clone(), torch.zeros_like(weight)
    for k in range(len(matrix)):
        codes[:, order[k]] = nearest(left[:, k, None], step)[:, 0]
        error = (left[:, k] - codes[:, order[k]] * step) / upper[k, k]
        left[:, k:] -= error[:, None] * upper[k, k:]
    return codes


@pytest.mark.parametrize("small", [False, True], ids=["in one part", "in many parts"])
def test_in_little_memory_the_codes_are_those_of_the_plain_form(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:
        monkeypatch.setattr(second_moments, "_PART_BYTES", 8 * 290 * 17)
        monkeypatch.setattr(gptq, "_ROWS_BYTES", 8 * 3 * 290 * 2)
        monkeypatch.setattr(cholesky, "_BLOCK", 50)
    weight, matrix, step = draw(3, 1, 7, 290, 100)  # fewer samples than columns, as behind small maps
    moments = moments_of(matrix)
    exact = moments.matrix()
    codes, chosen = choose_step(weight, moments, step, FOUR_BITS)
    shares = (1.0, 0.94, 1.06)
    wanted = torch.stack([plain(weight[0], exact[0], step[0] * share) for share in shares])
    costs = torch.stack(
        [cost(one[None], weight, exact, step * share)[0] for one, share in zip(wanted, shares, strict=True)]
    )
    best = costs.argmin(0)
    torch.testing.assert_close(chosen[0], step[0] * torch.tensor(shares, dtype=torch.float64)[best])
    assert torch.equal(codes[0].double(), wanted[best, torch.arange(7)])


class Ledger(TorchDispatchMode):
    """Counts the bytes of all tensors that were made under it and are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.alive:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, storage._cdata, None)
        self.most = max(self.most, sum(self.alive.values()))
        return made


def test_a_long_column_takes_its_moments_and_one_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_moments, "_PART_BYTES", 1 << 19)
    monkeypatch.setattr(cholesky, "_BLOCK", 64)
    size, rows = 1024, 4
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(1, rows, size, generator=rng)
    columns = torch.randn(1, size, 64, generator=rng)
    step = choose_steps(weight[0], FOUR_BITS, "minmax")[None]
    with Ledger() as ledger:
        moments = SecondMoments(1, size)
        moments.observe(columns)
        choose_step(weight, moments, step, FOUR_BITS)
    # sums in float32 and a factor in float64, where the plain form had eight matrices in float64; rows and parts
    assert ledger.most < 1.4 * (4 + 8) * size**2
