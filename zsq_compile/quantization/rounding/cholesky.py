"""Cholesky factors and their inverses, in the place of a matrix that may be too large to be there twice."""

import torch
from torch import Tensor

_BLOCK = 512


def factorise(matrix: Tensor) -> bool:
    """Overwrite positive definite matrices H, (groups, K, K), by L with H = L L^T, lower; zeros above the diagonal.

    Column by column of blocks, each of which takes in those on its left. Returns False where H is not definite; the
    matrices then hold nothing of use.
    """
    size = matrix.shape[-1]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        column, left = matrix[:, start:, start:stop], matrix[:, start:, :start]
        if start:
            column -= left @ left[:, : stop - start].mT
        lower, failed = torch.linalg.cholesky_ex(column[:, : stop - start])
        if bool(failed.any()):
            return False
        column[:, : stop - start] = lower
        column[:, stop - start :] = torch.linalg.solve_triangular(
            lower.mT, column[:, stop - start :], upper=True, left=False
        )
        matrix[:, :start, start:stop] = 0.0
    return True


def invert(lower: Tensor) -> None:
    """Overwrite lower triangular matrices, (groups, K, K), zeros above the diagonal, by their inverses."""
    size = lower.shape[-1]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        diagonal = lower[:, start:stop, start:stop]
        unit = torch.eye(stop - start, dtype=lower.dtype, device=lower.device).expand_as(diagonal)
        inverse = torch.linalg.solve_triangular(diagonal, unit, upper=False)
        lower[:, start:stop, :start] = -inverse @ (lower[:, start:stop, :start] @ lower[:, :start, :start])
        lower[:, start:stop, start:stop] = inverse
