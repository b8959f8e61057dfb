"""Arrays in files, and which input each of them is for."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.layouts import arrange, can_be_left_out, has_shape
from zsq_compile.data.pictures import as_pictures
from zsq_compile.errors import ConfigError
from zsq_compile.files import read_arrays

Arrays = Mapping[str, NDArray[Any]]


def by_name(arrays: Arrays, inputs: Sequence[InputSpec]) -> Arrays:
    """Give arrays the names of the inputs they are for, where these are written a little differently, or left out."""
    names = [spec.name for spec in inputs]
    if set(arrays) & set(names):
        return arrays
    loose = {_plain(name): name for name in names}
    if len(loose) == len(names) == len({_plain(name) for name in arrays} | set(loose)):
        return {loose[_plain(name)]: array for name, array in arrays.items()}
    needed = [spec for spec in inputs if not can_be_left_out(spec)]
    if len(arrays) == len(needed) == 1 and is_for(next(iter(arrays.values())), needed[0]):
        return {needed[0].name: next(iter(arrays.values()))}
    if sorted(arrays) == sorted(f"arr_{number}" for number in range(len(inputs))):
        return {spec.name: arrays[f"arr_{number}"] for number, spec in enumerate(inputs)}
    return arrays


def is_for(array: NDArray[Any], spec: InputSpec) -> bool:
    """Whether an array without a name fits an input: by its shape, or as pictures."""
    if spec.is_image and as_pictures(array, spec.channels) is not None:
        return True
    return has_shape(arrange(array, spec), spec)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().removesuffix(":0"))


def is_array(path: Path) -> bool:
    """Whether a file's name ends like that of an array or of an archive of them."""
    return path.suffix.lower() in (".npy", ".npz")


def open_array(path: Path) -> Arrays:
    """Read an .npz file, or an .npy file as the only array of one."""
    if path.suffix.lower() == ".npz":
        return read_arrays(path)
    try:
        with path.open("rb") as file:
            return {path.stem: np.lib.format.read_array(file, allow_pickle=False)}
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"cannot read {path} as an .npy file of numbers: {error}") from error
