"""Write a large model with its weights apart, so that ONNX Runtime maps them: its parser makes two copies more."""

from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

_LARGE = 1 << 18  # float32 numbers of one initializer
_MANY = 1 << 24  # of all of them; below it copies are cheap
_PAGE = 4096  # where a mapping may begin


def has_large_weights(model: onnx.ModelProto) -> bool:
    """Whether a model has so many float32 weights that copies of them count."""
    return bool(sum(prod(tensor.dims) for tensor in model.graph.initializer if _is_large(tensor)) >= _MANY)


def save_apart(model: onnx.ModelProto, folder: Path) -> Path:
    """Write a model into a folder, its large float32 weights one by one into a file of their own; returns its path."""
    small = onnx.ModelProto()
    _copy_fields(model, small, but="graph")
    _copy_fields(model.graph, small.graph, but="initializer")
    with (folder / "weights").open("wb") as file:
        for tensor in model.graph.initializer:
            if not _is_large(tensor):
                small.graph.initializer.append(tensor)
                continue
            file.seek(-(-file.tell() // _PAGE) * _PAGE)
            apart = small.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            apart.data_location = TensorProto.EXTERNAL
            place = {"location": "weights", "offset": file.tell(), "length": file.write(tensor.raw_data)}
            for key, value in place.items():
                apart.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(small.SerializeToString())
    return path


def _is_large(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and prod(tensor.dims) >= _LARGE and tensor.HasField("raw_data")


def _copy_fields(source: Any, copy: Any, *, but: str) -> None:
    for field, value in source.ListFields():
        if field.name == but:
            continue
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
            getattr(copy, field.name).extend(value)
        elif field.message_type is not None:
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
