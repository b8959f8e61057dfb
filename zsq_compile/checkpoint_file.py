"""The tensors of a trained network out of the file that its training left: PyTorch's own format, or safetensors."""

import pickle
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
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"--checkpoint {path} holds more than tensors, and to read it would mean to run code that lies in it, "
            f"which is not done: {_ADVICE} ({_first_sentence(error)})"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"--checkpoint {path} cannot be read as a file of torch.save: {_first_sentence(error)}; {_ADVICE}"
        ) from error


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


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
