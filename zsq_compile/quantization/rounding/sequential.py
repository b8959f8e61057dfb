"""Error-compensated rounding of one layer on what the quantized network in front of it makes.

With x what the float network feeds the layer, x' what the quantized one does, and W the float weight, the least squares
problem min |W x - W' x'|^2 + damping |W' - W|^2 has the solution

    W' = W (E[x x'^T] + damping I) (E[x' x'^T] + damping I)^-1,

which makes up for a part of what the layers in front have lost. W' is then rounded as in ``gptq`` with the moments of
x' (the idea of GPTAQ, Li et al. 2025, solved in full). How much W' may lean on the samples is decided on some of them
that the solution has not seen: a wide layer behind few positions would learn them by heart.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from passes.plan import WeightSite
from zsq_compile.errors import QuantizationError
from zsq_compile.quantization.rounding.cholesky import factorise
from zsq_compile.quantization.rounding.gptq import choose_step, group_rows, ungroup_rows
from zsq_compile.quantization.rounding.second_moments import SecondMoments

LONGEST_COLUMN = 4608
"""More weights to a column than this would take gigabytes for moments and their factors."""
_DAMPINGS = (0.01, 0.1, 1.0)  # relative to the mean of the diagonal of E[x' x'^T]
_QUIETEST = 1e-2  # a group of channels that is hardly ever on is damped like one of this share of the mean


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class InputPair:
    """What one layer reads in a chunk of samples: columns of both networks, (groups, K, positions).

    Where they are ``judged`` they decide about the damping, and are not in the solutions that are judged.
    """

    quantized: Tensor
    real: Tensor
    judged: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CompensatedLayer:
    """A layer rounded on what it reads, float32.

    ``weight`` lies on its grid, in its shape; ``step``, and the ``shift`` of the mean of W x - W' x' for the bias, have
    one number for each channel of the output.
    """

    weight: Tensor
    step: Tensor
    shift: Tensor


class _PairMoments:
    """E[x' x'^T], E[x x'^T], and the means of x' and of x."""

    def __init__(self, groups: int, size: int) -> None:
        self._square, self._cross = SecondMoments(groups, size), SecondMoments(groups, size)
        self._sums = torch.zeros(2, groups, size, dtype=torch.float64)

    def observe(self, pair: InputPair) -> None:
        self._square.observe(pair.quantized)
        self._cross.observe(pair.real, pair.quantized)
        self._sums += torch.stack([columns.sum(2).double().cpu() for columns in (pair.quantized, pair.real)])

    def add(self, other: "_PairMoments") -> None:
        self._square.add(other._square)
        self._cross.add(other._cross)
        self._sums += other._sums

    @property
    def square(self) -> SecondMoments:
        """E[x' x'^T]."""
        return self._square

    def solution(self, rows: Tensor, damping: float) -> Tensor:
        """W' for rows of W, float64, (groups, rows, K)."""
        diagonal = self._square.diagonal()
        level = diagonal.mean(1)
        level = damping * level.clamp_min(max(_QUIETEST * float(level.mean()), 1e-12))
        lower = self._square.matrix()
        lower.diagonal(dim1=1, dim2=2).add_(level[:, None])
        if not factorise(lower):
            raise QuantizationError("second moments of a layer's inputs are not finite: does it read NaN?")
        wanted = self._cross.times(rows) + level[:, None, None] * rows
        solved: Tensor = torch.cholesky_solve(wanted.transpose(1, 2), lower)
        return solved.transpose(1, 2)

    def distance(self, rows: Tensor, candidate: Tensor) -> float:
        """Mean of |W x - W' x'|^2, but for what does not depend on W'."""
        squared, crossed = self._square.times(candidate) * candidate, self._cross.times(rows) * candidate
        return float((squared - 2 * crossed).sum())

    def shift(self, rows: Tensor, candidate: Tensor) -> Tensor:
        """Mean of W x - W' x', (groups, rows)."""
        means = self._sums / self._square.count
        return (rows * means[1, :, None] - candidate * means[0, :, None]).sum(2)


def round_layer(site: WeightSite, weight: Tensor, step: Tensor, pairs: Iterable[InputPair]) -> CompensatedLayer | None:
    """Round one layer, whose weight has an axis of channels, towards what it makes in the float network.

    Its steps are searched around ``step``, one number for each channel of the output. Where no pairs are judged W
    itself is rounded. None where nothing is known about what the layer reads.
    """
    assert site.axis is not None
    seen: dict[bool, _PairMoments] = {}
    for pair in pairs:
        groups, size, _ = pair.quantized.shape
        seen.setdefault(pair.judged, _PairMoments(groups, size)).observe(pair)
    if not seen:
        return None
    rows = group_rows(weight, site.axis, next(iter(seen.values())).square.groups).double()
    damping = _choose_damping(rows, seen)
    moments, *others = seen.values()
    for other in others:
        moments.add(other)
    target = rows if damping is None else moments.solution(rows, damping)
    codes, chosen = choose_step(target, moments.square, step.double().reshape(rows.shape[:2]), site.number_format)
    on_grid = codes * chosen[..., None]
    return CompensatedLayer(
        weight=ungroup_rows(on_grid.float(), weight.shape, site.axis),
        step=chosen.reshape(-1).float(),
        shift=moments.shift(rows, on_grid).reshape(-1).float(),
    )


def _choose_damping(rows: Tensor, seen: Mapping[bool, _PairMoments]) -> float | None:
    """Choose the damping whose solution suits the samples that judge best; None where W itself does."""
    if len(seen) < 2:
        return None
    distances: dict[float | None, float] = {None: seen[True].distance(rows, rows)}
    for damping in _DAMPINGS:
        distances[damping] = seen[True].distance(rows, seen[False].solution(rows, damping))
    return min(distances, key=distances.__getitem__)
