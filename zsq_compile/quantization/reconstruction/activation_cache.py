"""Activations of all calibration samples between two blocks, in memory up to a limit and in files beyond it.

Files are read and written, not mapped: the pages of a mapping count as memory of the process.
"""

import itertools
import tempfile
from collections.abc import Hashable, Set
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
        self._spilled: dict[Hashable, _SpilledTensor] = {}

    def __enter__(self) -> "ActivationCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.keep(set())
        if self._files is not None:
            self._files.cleanup()

    @property
    def spilled(self) -> int:
        """Bytes that lie in files."""
        return sum(stored.bytes for stored in self._spilled.values())

    def write(self, key: Hashable, start: int, count: int, part: Tensor) -> None:
        """Put samples from ``start`` on; the first part of a key makes room for ``count`` samples of its kind."""
        stored = part.movedim(1, -1) if part.ndim > 2 else part
        if key not in self:
            self._make_room(key, (count, *stored.shape[1:]), part.dtype)
        if key in self._spilled:
            self._spilled[key].write(start, stored)
        else:
            self._tensors[key][start : start + len(part)].copy_(stored)

    def take(self, key: Hashable, index: Tensor | slice) -> Tensor:
        """Return some samples: those of an int64 index as a copy, those of a slice in memory as they lie there."""
        if key in self._spilled:
            chosen = self._spilled[key].read(index)
        else:
            stored = self._tensors[key]
            chosen = stored[index] if isinstance(index, slice) else stored.index_select(0, index)
        return chosen.movedim(-1, 1) if chosen.ndim > 2 else chosen

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tensors or key in self._spilled

    def keep(self, keys: Set[Hashable]) -> None:
        """Drop all but some tensors."""
        for key in self._tensors.keys() - keys:
            del self._tensors[key]
        for key in self._spilled.keys() - keys:
            self._spilled.pop(key).remove()

    def _make_room(self, key: Hashable, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        needed = torch.Size(shape).numel() * dtype.itemsize
        if sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values()) + needed <= self._limit:
            self._tensors[key] = torch.empty(shape, dtype=dtype)
            return
        if self._files is None:
            self._files = tempfile.TemporaryDirectory(prefix="zsq-", dir=self._folder, ignore_cleanup_errors=True)
        self._spilled[key] = _SpilledTensor(Path(self._files.name) / str(next(self._numbers)), shape, dtype)


class _SpilledTensor:
    """A tensor in a file of its own."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._path, self._shape, self._dtype = path, shape, dtype
        self._row = torch.Size(shape[1:]).numel() * dtype.itemsize
        self.bytes = shape[0] * self._row
        self._file = path.open("w+b")
        self._file.truncate(self.bytes)

    def write(self, start: int, part: Tensor) -> None:
        self._file.seek(start * self._row)
        self._file.write(_as_bytes(part.contiguous()).data)

    def read(self, index: Tensor | slice) -> Tensor:
        if isinstance(index, slice):
            start, stop, _ = index.indices(self._shape[0])
            places = list(range(start, stop))
        else:
            places = index.tolist()
        made = torch.empty((len(places), *self._shape[1:]), dtype=self._dtype)
        rows = _as_bytes(made).reshape(len(places), -1)
        if isinstance(index, slice):
            self._read_into(start, rows)
        else:
            for row, place in enumerate(places):
                self._read_into(place, rows[row])
        return made

    def remove(self) -> None:
        self._file.close()
        self._path.unlink()

    def _read_into(self, place: int, room: NDArray[np.uint8]) -> None:
        self._file.seek(place * self._row)
        self._file.readinto(room.reshape(-1).data)


def _as_bytes(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
