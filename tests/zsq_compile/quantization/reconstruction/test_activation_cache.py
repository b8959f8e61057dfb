from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from zsq_compile.quantization.reconstruction.activation_cache import ActivationCache

KINDS = (torch.float32, torch.bfloat16, torch.int64, torch.bool)
SHAPES = ((), (5,), (3, 4), (3, 4, 5), (2, 3, 4, 5))


def numbers(count: int, shape: tuple[int, ...] = (3, 4, 5), kind: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (10 * torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))).to(kind)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["spilled", "in memory"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_written_in_parts_comes_back(
    shape: tuple[int, ...], kind: torch.dtype, limit: int, tmp_path: Path
) -> None:
    data = numbers(11, shape, kind)
    with ActivationCache(limit, tmp_path) as cache:
        for start in range(0, 11, 4):
            cache.write("a", start, 11, data[start : start + 4])
        assert "a" in cache
        assert "b" not in cache
        chosen = torch.tensor([7, 0, 7, 10])
        for index in (slice(0, 11), slice(3, 6), slice(8, 20), chosen):
            got = cache.take("a", index)
            assert got.dtype == kind
            assert torch.equal(got, data[index])
        assert cache.spilled == (0 if limit else data.numel() * data.element_size())
        assert len(files(tmp_path)) == (0 if limit else 1)
        del got
    assert list(tmp_path.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), limit=st.integers(0, 3000), part=st.integers(1, 5))
def test_memory_and_files_hold_the_same(sizes: list[int], limit: int, part: int, tmp_path: Path) -> None:
    tensors = {(side, i): numbers(7, (size, 4, 3), seed=i) for i, size in enumerate(sizes) for side in ("a", "b")}
    with ActivationCache(limit, tmp_path) as cache:
        for start in range(0, 7, part):
            for key, tensor in tensors.items():
                cache.write(key, start, 7, tensor[start : start + part])
        whole = sum(4 * tensor.numel() for tensor in tensors.values())
        assert whole - limit <= cache.spilled <= whole
        for key, tensor in tensors.items():
            assert torch.equal(cache.take(key, slice(0, 7)), tensor)
    assert list(tmp_path.iterdir()) == []


def test_samples_of_an_index_are_a_copy_and_images_keep_their_channels_last(tmp_path: Path) -> None:
    with ActivationCache(0, tmp_path) as cache:
        cache.write("a", 0, 4, numbers(4))
        copied = cache.take("a", torch.tensor([1, 2]))
        assert copied.shape == (2, 3, 4, 5)
        assert copied.is_contiguous(memory_format=torch.channels_last)
        copied.zero_()
        assert torch.equal(cache.take("a", slice(0, 4)), numbers(4))


def test_a_copy_outlives_the_cache(tmp_path: Path) -> None:
    with ActivationCache(0, tmp_path) as cache:
        cache.write("a", 0, 4, numbers(4))
        copied = cache.take("a", torch.arange(4))
    assert torch.equal(copied, numbers(4))


def test_what_fits_stays_in_memory_and_room_is_given_back(tmp_path: Path) -> None:
    one = 4 * numbers(4).numel()
    with ActivationCache(2 * one, tmp_path) as cache:
        for key in "abc":
            cache.write(key, 0, 4, numbers(4))
        assert cache.spilled == one
        assert len(files(tmp_path)) == 1
        cache.keep({"b", "c"})
        assert "a" not in cache
        assert cache.spilled == one
        cache.write("d", 0, 4, numbers(4, seed=1))  # there is room for it now
        assert cache.spilled == one
        cache.keep({"d"})
        assert cache.spilled == 0
        assert files(tmp_path) == []
        assert torch.equal(cache.take("d", slice(0, 4)), numbers(4, seed=1))
        cache.write("c", 0, 4, numbers(4, seed=2))  # a name that was dropped may come back
        assert torch.equal(cache.take("c", slice(0, 4)), numbers(4, seed=2))
        cache.keep(set())
    assert list(tmp_path.iterdir()) == []


def test_files_are_gone_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half-way"), ActivationCache(0, tmp_path) as cache:
        cache.write("a", 0, 4, numbers(2))
        assert len(files(tmp_path)) == 1
        raise RuntimeError("half-way")
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_the_system_s_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ActivationCache(0) as cache:
        cache.write("a", 0, 4, numbers(4))
        (file,) = files(tmp_path)
        assert file.stat().st_size == 4 * numbers(4).numel()
    assert list(tmp_path.iterdir()) == []
