"""The tensors of a trained network out of the file that its training left: PyTorch's own format, or safetensors."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zsq_compile.errors import ConfigError

_SAFETENSORS = ".safetensors"
_ADVICE = "save the tensors alone, with torch.save(model.state_dict(), 'weights.pt')"


def read_checkpoint(path: Path) -> dict[str, NDArray[np.floating]]:
    """Read the floating-point tensors of a checkpoint, at least one-dimensional, by name.

    A state_dict may lie under keys of its own (``state_dict``, ``model``, ``ema``...), at any depth; the keys on the
    way are joined with dots. No code in the file is ever run: PyTorch's files are read with ``weights_only=True``.

    Args:
        path: .safetensors, or else a file of ``torch.save``.

    Raises:
        ConfigError: the file cannot be read, holds Python objects that need code, or holds no tensors.

    """
    if not path.is_file():
        raise ConfigError(f"--checkpoint wants a file of trained tensors, got {path}, which does not exist")
    content = _safetensors(path) if path.suffix == _SAFETENSORS else _pytorch(path)
    found = {name: _array(tensor) for name, tensor in _tensors(content, "") if _counts(tensor)}
    if not found:
        raise ConfigError(f"--checkpoint {path} holds no tensors of floating-point numbers: {_ADVICE}")
    return found


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"--checkpoint {path} cannot be read as a safetensors file: {error}") from error


def _pytorch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a TorchScript archive, which is refused with an error as well
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words advise to run the code, so only the name of what it stumbled over is passed on.
        named = re.search(r"GLOBAL ([A-Za-z_][\w.]*)", str(error))
        if named is None:
            raise ConfigError(f"--checkpoint {path} cannot be read as a file of torch.save; {_ADVICE}") from error
        raise ConfigError(
            f"--checkpoint {path} holds more than tensors ({named[1]}), and to read it would mean to run code that it "
            f"names, which is not done: {_ADVICE}"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        words = str(error).strip().split("\n")[0].split(". ")[0]
        raise ConfigError(
            f"--checkpoint {path} cannot be read as a file of torch.save: {words or type(error).__name__}; {_ADVICE}"
        ) from error


def _tensors(content: object, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Walk through mappings and lists; names are the keys on the way."""
    if isinstance(content, torch.Tensor):
        yield prefix, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _tensors(value, f"{prefix}.{index}" if prefix else str(index))


def _counts(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim > 0 and tensor.layout == torch.strided and not tensor.is_meta


def _array(tensor: torch.Tensor) -> NDArray[np.floating]:
    """Copy to float32, or keep float64."""
    kept = tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
    array: NDArray[np.floating] = kept.numpy()
    return array
