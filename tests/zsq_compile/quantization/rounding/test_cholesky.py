import pytest
import torch

from zsq_compile.quantization.rounding import cholesky


def definite(groups: int, size: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    columns = torch.randn(groups, size, 2 * size, generator=rng, dtype=torch.float64)
    return columns @ columns.mT / size


@pytest.mark.parametrize("block", [1, 4, 7, 64])
@pytest.mark.parametrize(("groups", "size"), [(1, 21), (3, 8)])
def test_factor_and_inverse_are_those_of_lapack_and_lie_where_the_matrix_lay(
    groups: int, size: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cholesky, "_BLOCK", block)
    matrix = definite(groups, size)
    wanted, place = torch.linalg.cholesky(matrix), matrix.data_ptr()
    assert cholesky.factorise(matrix)
    torch.testing.assert_close(matrix, wanted, rtol=1e-10, atol=1e-12)
    cholesky.invert(matrix)
    torch.testing.assert_close(matrix, torch.linalg.inv(wanted), rtol=1e-9, atol=1e-11)
    assert matrix.data_ptr() == place
    assert not bool(matrix.triu(1).any())


@pytest.mark.parametrize("block", [4, 64])
def test_what_is_not_definite_is_told(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cholesky, "_BLOCK", block)
    matrix = definite(2, 9)
    matrix[1, 7, 7] = -1.0
    assert not cholesky.factorise(matrix)
