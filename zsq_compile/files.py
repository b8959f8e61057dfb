"""Atomic writing of files, .npz archives, hashes and sizes."""

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.errors import ConfigError

if TYPE_CHECKING:
    import onnx_ir as ir

_PROTOBUF_LIMIT = 1_900_000_000  # one protobuf message ends at 2 GiB; the graph itself needs room too


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``, and rename that file at the end, so that no half file is ever seen.

    Raises:
        ConfigError: the file cannot be written.

    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, on the same disk, which is removed at the end.

    Raises:
        ConfigError: the folder cannot be made.

    """
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", dir=path.parent))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}; choose another place with -o"
        ) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_model(model: "ir.Model", path: Path) -> None:
    """Write a model under a temporary name in the target folder and rename it.

    Weights go into ``<name>.data`` beside the model where one file cannot hold them.

    Raises:
        ConfigError: the folder cannot be written to.

    """
    import onnx_ir as ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    data = f"{path.name}.data" if size > _PROTOBUF_LIMIT else None
    with scratch_folder(path) as scratch:
        ir.save(model, scratch / path.name, external_data=data)
        if data is not None:
            (scratch / data).replace(path.parent / data)
        (scratch / path.name).replace(path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an .npz file with one array per network input, samples along the first axis. ConfigError when it is none."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"cannot read {path} as an .npz file of arrays: {error}") from error
    raise ConfigError(f"{path} holds one array without a name; wanted an .npz file with an array per network input")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a compressed .npz file."""
    # np.savez takes the arrays as keywords, where an input called "file" would collide with its own parameter.
    with written_whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes (without external data)."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_bytes(path: Path) -> int:
    """Size of a model file with its external data."""
    found = path.stat()
    beside = _external_files(path, found.st_mtime_ns, found.st_size)
    return found.st_size + sum(external_file(path, place).stat().st_size for place in beside)


@lru_cache(maxsize=8)
def _external_files(path: Path, *_: int) -> frozenset[str]:
    """Names of the files that a model of a time and size has weights in; to read a large one takes twice its memory."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return frozenset(
        str(entry.value)
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )


def external_file(model: Path, location: str) -> Path:
    """Find the file that a model names as the place of its weights.

    That is a file in its folder. Caches of models keep links: one is followed within the folder, and to a file beside
    the one that the model itself is a link to, but no further: a model must not read any other file of its user's.
    """
    named, beside = model.parent / location, model.resolve().parent
    if Path(location).is_absolute() or ".." in Path(location).parts:
        return named
    real = (named if named.exists() else beside / location).resolve()
    return real if real.is_relative_to(model.parent.resolve()) or real.parent == beside else named
