"""Activations of all calibration samples between two blocks, in memory up to a limit and in mapped files beyond it."""

import itertools
import tempfile
from collections.abc import Hashable, Set
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor


class ActivationCache:
    """Tensors of (samples, ...) by key; a context manager, whose end removes the files.

    Images are kept with their channels last in memory: convolutions on a CPU are up to four times as fast on that.
    ``limit`` bytes are held in memory; what does not fit any more goes to a file of its own in ``folder``.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self._limit = limit
        self._folder = folder
        self._files: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = itertools.count()
        self._tensors: dict[Hashable, Tensor] = {}
        self._in_memory: dict[Hashable, int] = {}
        self._paths: dict[Hashable, Path] = {}

    def __enter__(self) -> "ActivationCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tensors.clear()
        if self._files is not None:
            self._files.cleanup()

    @property
    def spilled(self) -> int:
        """Bytes that lie in files."""
        whole = sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values())
        return whole - sum(self._in_memory.values())

    def write(self, key: Hashable, start: int, count: int, part: Tensor) -> None:
        """Put samples from ``start`` on; the first part of a key makes room for ``count`` samples of its kind."""
        stored = part.movedim(1, -1) if part.ndim > 2 else part
        if key not in self._tensors:
            self._tensors[key] = self._room(key, (count, *stored.shape[1:]), part.dtype)
        self._tensors[key][start : start + len(part)].copy_(stored)

    def take(self, key: Hashable, index: Tensor | slice) -> Tensor:
        """Return some samples: those of an int64 index as a copy, those of a slice as they lie there."""
        stored = self._tensors[key]
        chosen = stored[index] if isinstance(index, slice) else stored.index_select(0, index)
        return chosen.movedim(-1, 1) if chosen.ndim > 2 else chosen

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tensors

    def keep(self, keys: Set[Hashable]) -> None:
        """Drop all but some tensors."""
        for key in self._tensors.keys() - keys:
            del self._tensors[key]
            self._in_memory.pop(key, None)
            path = self._paths.pop(key, None)
            if path is not None:
                path.unlink()

    def _room(self, key: Hashable, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        needed = torch.Size(shape).numel() * dtype.itemsize
        if sum(self._in_memory.values()) + needed <= self._limit:
            self._in_memory[key] = needed
            return torch.empty(shape, dtype=dtype)
        if self._files is None:
            self._files = tempfile.TemporaryDirectory(prefix="zsq-", dir=self._folder, ignore_cleanup_errors=True)
        path = Path(self._files.name) / str(next(self._numbers))
        self._paths[key] = path
        flat = torch.from_file(str(path), shared=True, size=needed // dtype.itemsize, dtype=dtype)
        return flat.view(shape)
