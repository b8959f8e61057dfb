"""Named arrays in .npz files: the user's own calibration data in, synthetic data out."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.errors import ConfigError


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an .npz file with one array per network input, samples along the first axis. ConfigError when it is none."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read as an .npz file of arrays: {error}") from error
    raise ConfigError(f"{path} holds one array without a name; wanted an .npz file with an array per network input")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a compressed .npz file, first under a temporary name beside ``path``, so that no half file is ever seen."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # np.savez takes the arrays as keywords, where an input called "file" would collide with its own parameter.
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
