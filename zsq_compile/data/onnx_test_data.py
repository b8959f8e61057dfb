"""ONNX's own form of test data: folders ``test_data_set_N`` with a serialized TensorProto per input (``input_K.pb``).

The form is described in ONNX's documentation of its backend tests (onnx/backend/test/README) and is what the ONNX model
zoo ships beside its models. Expected outputs (``output_K.pb``) are not read: the float model itself is the reference.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from zsq_compile.data.batch_axes import stack_given
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError

_SET = re.compile(r"test_data_set_(\d+)")
_INPUT = re.compile(r"input_(\d+)\.pb")


def sets_of_test_data(path: Path) -> list[Path]:
    """Folders of test data at ``path``, by their numbers: itself, or those in it; empty when there are none."""
    if _numbered(path, _INPUT):
        return [path]
    return [folder for folder in _numbered(path, _SET) if folder.is_dir()]


def read_test_data(folders: Sequence[Path], inputs: Sequence[InputSpec]) -> dict[str, NDArray[Any]]:
    """Read the inputs of every set and join the sets along axis 0.

    Args:
        folders: as ``sets_of_test_data`` gives them.
        inputs: the model's inputs; file K holds the K-th, unless all tensors carry the names of inputs.

    Returns:
        Samples by input name, (count, ...).

    Raises:
        ConfigError: a file is missing or holds no tensor, or the sets do not fit together.

    """
    sets = [stack_given(_read_set(folder, inputs), inputs, str(folder)) for folder in folders]
    joined = {}
    for spec in inputs:
        parts = [arrays[spec.name] for arrays in sets]
        if len({part.shape[1:] for part in parts}) > 1 or any(part.ndim == 0 for part in parts):
            shapes = ", ".join(str(part.shape) for part in parts)
            raise ConfigError(
                f"{folders[0].parent}: the sets of test data hold {spec.name!r} in shapes that cannot be joined along "
                f"the first axis ({shapes}); give one set of them"
            )
        joined[spec.name] = np.concatenate(parts)
    return joined


def _read_set(folder: Path, inputs: Sequence[InputSpec]) -> dict[str, NDArray[Any]]:
    files = _numbered(folder, _INPUT)
    if len(files) != len(inputs):
        raise ConfigError(
            f"{folder} holds {len(files)} files input_K.pb, but the model has {len(inputs)} inputs "
            f"({', '.join(spec.name for spec in inputs)})"
        )
    tensors = [_read_tensor(file) for file in files]
    names = [name for name, _ in tensors]
    wanted = [spec.name for spec in inputs]
    order = names if sorted(names) == sorted(wanted) else wanted
    return {name: array for name, (_, array) in zip(order, tensors, strict=True)}


def _read_tensor(file: Path) -> tuple[str, NDArray[Any]]:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(file.read_bytes())
        return tensor.name, onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # the protobuf back ends raise different types
        raise ConfigError(f"cannot read {file} as a serialized ONNX tensor: {error}") from error


def _numbered(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    found = [(int(match[1]), entry) for entry in folder.iterdir() if (match := pattern.fullmatch(entry.name))]
    return [entry for _, entry in sorted(found)]
