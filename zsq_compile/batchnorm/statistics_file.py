"""Statistics of BatchNormalization in an .npz file: written from a model that has it, read for one where it is folded.

docs/reference/statistics-file.md documents the format.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.batchnorm.harvest_batchnorm import BatchNorm, dead_channels
from passes.batchnorm.place_statistics import FoldedNorm
from zsq_compile.errors import ConfigError
from zsq_compile.files import file_sha256, read_arrays, write_arrays

FORMAT, VERSION = "zsq-compile batchnorm statistics", 1

_TABLES = ("format", "version", "model", "model_sha256", "values", "nodes", "layers", "epsilon")
_VECTORS = ("mean", "variance", "scale", "shift", "folded_length", "folded_bias")


def write_statistics(path: Path, model: Path, norms: Sequence[FoldedNorm]) -> None:
    """Write the BatchNormalizations of ``model``, in graph order; ConfigError where that is not possible."""
    entries = [norm.entry for norm in norms]
    arrays: dict[str, NDArray[Any]] = {
        "format": np.array(FORMAT),
        "version": np.array(VERSION, dtype=np.int64),
        "model": np.array(model.name),
        "model_sha256": np.array(file_sha256(model)),
        "values": np.array([entry.output for entry in entries], dtype=np.str_),
        "nodes": np.array([entry.node for entry in entries], dtype=np.str_),
        "layers": np.array([entry.layer or "" for entry in entries], dtype=np.str_),
        "epsilon": np.array([entry.epsilon for entry in entries], dtype=np.float64),
    }
    for index, norm in enumerate(norms):
        vectors = (norm.entry.mean, norm.entry.variance, norm.entry.scale, norm.entry.shift, norm.lengths, norm.bias)
        arrays |= {f"{index}/{name}": vector for name, vector in zip(_VECTORS, vectors, strict=True)}
    write_arrays(path, arrays)


def read_statistics(path: Path) -> tuple[FoldedNorm, ...]:
    """Read the BatchNormalizations of a file that ``write_statistics`` wrote.

    Raises:
        ConfigError: it is another file, of another version, or something in it is missing or not as it should be.

    """
    arrays = read_arrays(path)
    if str(arrays.get("format", "")) != FORMAT:
        raise ConfigError(
            f"--bn-stats wants a file of zsq-compile harvest, got {path}, which holds "
            f"{', '.join(list(arrays)[:5]) or 'nothing'}: make one with zsq-compile harvest MODEL.onnx -o stats.npz"
        )
    version = arrays.get("version")
    if version is None or version.size != 1 or int(version) != VERSION:
        raise ConfigError(
            f"{path} is of version {version}, and this zsq-compile reads version {VERSION}: harvest the model again"
        )
    _require(path, arrays, _TABLES)
    count = len(np.atleast_1d(arrays["values"]))
    if any(arrays[name].shape != (count,) for name in ("values", "nodes", "layers", "epsilon")):
        raise ConfigError(f"{path} is damaged: values, nodes, layers and epsilon must have the same length")
    _require(path, arrays, [f"{index}/{name}" for index in range(count) for name in _VECTORS])
    return tuple(_read_norm(path, arrays, index) for index in range(count))


def _require(path: Path, arrays: Mapping[str, NDArray[Any]], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ConfigError(
            f"{path} is damaged: it lacks {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}; harvest "
            "the model again"
        )


def _read_norm(path: Path, arrays: Mapping[str, NDArray[Any]], index: int) -> FoldedNorm:
    vectors = {name: arrays[f"{index}/{name}"] for name in _VECTORS}
    shapes = {vector.shape for vector in vectors.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ConfigError(f"{path} is damaged: the arrays of entry {index} differ in shape: {sorted(shapes)}")
    if not all(vector.dtype.kind == "f" and np.isfinite(vector).all() for vector in vectors.values()):
        raise ConfigError(f"{path} is damaged: the arrays of entry {index} are not all finite numbers")
    vectors = {name: vector.astype(np.float32) for name, vector in vectors.items()}
    if (vectors["variance"] < 0.0).any():
        raise ConfigError(f"{path} is damaged: a variance of entry {index} is negative")
    entry = BatchNorm(
        node=str(arrays["nodes"][index]),
        input="",
        output=str(arrays["values"][index]),
        mean=vectors["mean"],
        variance=vectors["variance"],
        scale=vectors["scale"],
        shift=vectors["shift"],
        epsilon=float(arrays["epsilon"][index]),
        layer=str(arrays["layers"][index]) or None,
        dead=dead_channels(vectors["variance"]),
    )
    return FoldedNorm(entry=entry, lengths=vectors["folded_length"], bias=vectors["folded_bias"])
