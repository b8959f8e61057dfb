"""Error-compensated rounding: each column's rounding error is made up for by the columns that are not rounded yet.

OBQ (Frantar and Alistarh 2022) in the form of GPTQ (Frantar et al. 2023, algorithm 1): with U the upper Cholesky factor
of H^-1, columns are rounded one by one, and the error of column k, divided by U[k, k], is spread over the columns
behind it along U[k]. Columns go from the largest diagonal entry of H to the smallest. Rows do not influence each other
given H, so every row is tried with several steps, and keeps the one with the least tr(D H D^T).
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from backends.target import NumberFormat
from passes.plan import QuantizationPlan, Scale
from zsq_compile.differentiable.fake_quantize import round_to_codes
from zsq_compile.errors import QuantizationError
from zsq_compile.quantization.rounding.cholesky import factorise, invert
from zsq_compile.quantization.rounding.second_moments import SecondMoments

_DAMPING = 0.01
_BLOCK = 128
_FRACTIONS = (1.0, 0.94, 1.06)  # much smaller steps clip what only the synthetic data say is unimportant
_ROWS_BYTES = 1 << 25  # of rows in float64, with all steps that are tried; a few such live at the same time


def round_with_gptq(
    plan: QuantizationPlan, weights: Mapping[str, Tensor], moments: Mapping[str, SecondMoments]
) -> dict[str, tuple[Tensor, Scale]]:
    """Round every weight whose second moments are known, by initializer.

    The moments are taken around 0, not around the mean: on the models measured that agreed better with the float
    network, with a bias correction behind it too, and most of all at 4-bit activations. The search over steps starts at
    the weight scales of the plan.

    Returns:
        (weight on its grid, float32, in its shape; scale of the grid) by initializer name.

    """
    rounded = {}
    for name, (site, *_) in plan.sites_by_weight().items():
        if site.axis is None or name not in moments:
            continue
        weight = weights[name]
        rows = group_rows(weight, site.axis, moments[name].groups)
        step = torch.from_numpy(plan.weight_scales[name].scale).to(rows.device, torch.float64)
        codes, chosen = choose_step(rows, moments[name], step.reshape(rows.shape[:2]), site.number_format)
        scale = chosen.reshape(-1).float()
        rounded[name] = (
            ungroup_rows(codes.mul_(scale.reshape(*chosen.shape, 1)), weight.shape, site.axis),
            Scale(scale=scale.cpu().numpy(), zero_point=np.zeros(scale.shape, np.int32)),
        )
    return rounded


def group_rows(weight: Tensor, axis: int, groups: int) -> Tensor:
    """Lay a weight out as rows that multiply columns: (groups, rows, K)."""
    by_channel = weight.detach().movedim(axis, 0)
    return by_channel.reshape(groups, len(by_channel) // groups, -1)


def ungroup_rows(rows: Tensor, shape: torch.Size, axis: int) -> Tensor:
    """Turn rows back into a weight of this shape: the inverse of ``group_rows``."""
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return rows.reshape(moved).movedim(0, axis).contiguous()


def choose_step(
    rows: Tensor, moments: SecondMoments, step: Tensor, number_format: NumberFormat
) -> tuple[Tensor, Tensor]:
    """Round every row with several steps at once; keep each row's best.

    Args:
        rows: real weights, (groups, rows, K).
        moments: of the columns that they multiply.
        step: of each row, float64, (groups, rows).
        number_format: a symmetric grid.

    Returns:
        Integer codes, float32, like ``rows``, and the chosen steps, float64, like ``step``.

    """
    compensation = Compensation(moments)
    codes, chosen = torch.empty(rows.shape), torch.empty(step.shape, dtype=torch.float64)
    most = max(_ROWS_BYTES // (8 * len(_FRACTIONS) * rows.shape[0] * rows.shape[2]), 1)
    for start in range(0, rows.shape[1], most):
        part = slice(start, start + most)
        codes[:, part], chosen[:, part] = _choose(rows[:, part].double(), compensation, step[:, part], number_format)
    return codes, chosen


def _choose(
    rows: Tensor, compensation: "Compensation", step: Tensor, number_format: NumberFormat
) -> tuple[Tensor, Tensor]:
    tries = len(_FRACTIONS)
    steps = (step[:, :, None] * step.new_tensor(_FRACTIONS)).flatten(1)
    repeated = rows.repeat_interleave(tries, 1)
    codes = compensation.round(repeated, steps, number_format)
    cost = compensation.moments.error(codes * steps[:, :, None] - repeated).reshape(*step.shape, tries)
    best = cost.argmin(2, keepdim=True)
    chosen = steps.reshape(*step.shape, tries).gather(2, best)[:, :, 0]
    spread = best[..., None].expand(-1, -1, -1, rows.shape[2])
    return codes.reshape(*step.shape, tries, -1).gather(2, spread)[:, :, 0], chosen


class Compensation:
    """How the rounding error of one column is made up for by others: a factor of the inverse of second moments.

    With the columns in the opposite order H = L L^T, and the U of the module's text is L^-1 there: one factorisation
    and one inversion, both in the place of one copy of H, and rounding goes from the last column to the first.
    """

    def __init__(self, moments: SecondMoments) -> None:
        self.moments = moments
        self._order = moments.diagonal().argsort(1, descending=True).flip(1)
        self._factor = self._inverse_factor()

    def _inverse_factor(self) -> Tensor:
        """Lower inverse factor, float64, (groups, K, K); damping grows until the moments are definite."""
        mean = self.moments.diagonal().mean(1, keepdim=True).clamp(min=1e-12)
        damping = _DAMPING
        while True:
            factor = self.moments.permuted(self._order)
            if not bool(factor.sum().isfinite()):  # which needs no copy
                message = "second moments of a layer are not finite: does the float model make NaN on its data?"
                raise QuantizationError(message)
            factor.diagonal(dim1=1, dim2=2).add_(damping * mean)
            if factorise(factor):
                invert(factor)
                return factor
            damping *= 10.0

    def round(self, weight: Tensor, step: Tensor, number_format: NumberFormat) -> Tensor:
        """Integer codes, float64, of weights, float64 (groups, rows, K), for steps, (groups, rows)."""
        order, factor = self._order[:, None, :].expand_as(weight), self._factor
        left = weight.gather(2, order)
        codes = torch.empty_like(left)
        for start in reversed(range(0, left.shape[2], _BLOCK)):
            stop = min(start + _BLOCK, left.shape[2])
            errors = torch.empty_like(left[:, :, start:stop])
            for place in reversed(range(start, stop)):
                codes[:, :, place] = round_to_codes(left[:, :, place], step, number_format)
                error = (left[:, :, place] - codes[:, :, place] * step) / factor[:, place, place, None]
                left[:, :, start : place + 1] -= error[:, :, None] * factor[:, place, None, start : place + 1]
                errors[:, :, place - start] = error
            left[:, :, :start] -= errors @ factor[:, start:stop, :start]
        return torch.empty_like(codes).scatter_(2, order, codes)
