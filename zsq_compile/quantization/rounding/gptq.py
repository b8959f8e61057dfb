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
from zsq_compile.quantization.rounding.second_moments import SecondMoments

_DAMPING = 0.01
_BLOCK = 128
_FRACTIONS = (1.0, 0.94, 1.06)  # much smaller steps clip what only the synthetic data say is unimportant


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
        step = torch.from_numpy(plan.weight_scales[name].scale).to(rows).reshape(rows.shape[:2])
        codes, chosen = choose_step(rows, moments[name].matrix(), step, site.number_format)
        scale = chosen.reshape(-1).float()
        rounded[name] = (
            ungroup_rows(codes.float() * scale.reshape(*chosen.shape, 1), weight.shape, site.axis),
            Scale(scale=scale.cpu().numpy(), zero_point=np.zeros(scale.shape, np.int32)),
        )
    return rounded


def group_rows(weight: Tensor, axis: int, groups: int) -> Tensor:
    """Lay a weight out as float64 rows that multiply columns: (groups, rows, K)."""
    by_channel = weight.detach().double().movedim(axis, 0)
    return by_channel.reshape(groups, len(by_channel) // groups, -1)


def ungroup_rows(rows: Tensor, shape: torch.Size, axis: int) -> Tensor:
    """Turn rows back into a weight of this shape: the inverse of ``group_rows``."""
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return rows.reshape(moved).movedim(0, axis).contiguous()


def choose_step(rows: Tensor, matrix: Tensor, step: Tensor, number_format: NumberFormat) -> tuple[Tensor, Tensor]:
    """Round every row with several steps at once; keep each row's best."""
    tries = len(_FRACTIONS)
    steps = (step[:, :, None] * step.new_tensor(_FRACTIONS)).flatten(1)
    repeated = rows.repeat_interleave(tries, 1)
    codes = round_with_compensation(repeated, matrix, steps, number_format)
    error = codes * steps[:, :, None] - repeated
    cost = ((error @ matrix) * error).sum(2).reshape(*step.shape, tries)
    best = cost.argmin(2, keepdim=True)
    chosen = steps.reshape(*step.shape, tries).gather(2, best)[:, :, 0]
    spread = best[..., None].expand(-1, -1, -1, rows.shape[2])
    return codes.reshape(*step.shape, tries, -1).gather(2, spread)[:, :, 0], chosen


def round_with_compensation(weight: Tensor, matrix: Tensor, step: Tensor, number_format: NumberFormat) -> Tensor:
    """Integer codes, float64, (groups, rows, K), on a symmetric grid.

    ``weight`` is (groups, rows, K), ``step`` (groups, rows), and ``matrix`` holds positive semi-definite second
    moments, (groups, K, K).
    """
    size = weight.shape[2]
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(1, descending=True)
    inverse_order = order.argsort(1)
    permuted = matrix.gather(1, order[:, :, None].expand_as(matrix)).gather(2, order[:, None, :].expand_as(matrix))
    factor = _inverse_factor(permuted)
    left = weight.gather(2, order[:, None, :].expand_as(weight)).clone()
    codes = torch.empty_like(left)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        block, errors = left[:, :, start:stop], torch.empty_like(left[:, :, start:stop])
        for column in range(stop - start):
            place = start + column
            code = round_to_codes(block[:, :, column], step, number_format)
            codes[:, :, place] = code
            error = (block[:, :, column] - code * step) / factor[:, place, place, None]
            block[:, :, column:] -= error[:, :, None] * factor[:, place, None, place:stop]
            errors[:, :, column] = error
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return codes.gather(2, inverse_order[:, None, :].expand_as(codes))


def _inverse_factor(matrix: Tensor) -> Tensor:
    """Upper Cholesky factor of the damped inverse, (groups, K, K); damping grows until the matrix is definite."""
    mean = matrix.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    damping = _DAMPING
    while True:
        damped = matrix + (damping * mean)[:, None, None] * identity
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed.any()):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not bool(failed.any()):
                return upper  # type: ignore[no-any-return]
        if not bool(matrix.isfinite().all()):
            message = "second moments of a layer's inputs are not finite: does the float model make NaN on its data?"
            raise QuantizationError(message)
        damping *= 10.0
