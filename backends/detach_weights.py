"""Hand large weights to ONNX Runtime as they lie in memory: through its parser a model is there four times."""

from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

_LARGE = 1 << 18  # float32 numbers of one initializer
_MANY = 1 << 24  # of all of them; below it copies are cheap


def detach_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """Return a model whose large float32 weights are called external, and these by name; a small model as it is.

    The model given is not changed.
    """
    large = {tensor.name: tensor for tensor in model.graph.initializer if _is_large(tensor)}
    if sum(prod(tensor.dims) for tensor in large.values()) < _MANY:
        return model, {}
    small = onnx.ModelProto()
    _copy_fields(model, small, but="graph")
    _copy_fields(model.graph, small.graph, but="initializer")
    for tensor in model.graph.initializer:
        if tensor.name not in large:
            small.graph.initializer.append(tensor)
            continue
        length = 4 * prod(tensor.dims)
        apart = small.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        apart.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights"), ("offset", "0"), ("length", str(length))):
            apart.external_data.add(key=key, value=value)
    arrays = {name: np.frombuffer(one.raw_data, np.float32).reshape(tuple(one.dims)) for name, one in large.items()}
    return small, arrays


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
