"""From a file to a graph that the compiler can work on; what cannot be used is refused in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from passes.normalize import normalize
from zsq_compile.errors import LoadError
from zsq_compile.signature import InputSpec

MINIMUM_OPSET = 21


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedModel:
    """A model as the compiler sees it.

    Attributes:
        path: the user's file.
        original: the user's graph, raised to opset 21 or later and nothing else: the float reference.
        model: the same in normal form, BatchNormalization kept.
        inputs: what it takes in.
        outputs: names of its outputs.
        opset: of the user's file.
        notes: what the user should know about the loading.

    """

    path: Path
    original: onnx.ModelProto
    model: ir.Model
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    opset: int
    notes: tuple[str, ...]


def load_model(path: Path, *, input_shapes: Mapping[str, tuple[int | None, ...]] | None = None) -> LoadedModel:
    """Read, check, raise and normalise a model."""
    proto = onnx.load(path)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not opset:
        raise LoadError(f"{path} names no operator set (opset_import): no runtime can tell what its nodes mean")
    original = onnx.version_converter.convert_version(proto, max(opset, MINIMUM_OPSET))
    original.ir_version = max(original.ir_version, 10)
    model = normalize(ir.from_proto(original))
    return LoadedModel(
        path=path,
        original=original,
        model=model,
        inputs=tuple(_specification(value) for value in model.graph.inputs),
        outputs=tuple(value.name or "" for value in model.graph.outputs),
        opset=opset,
        notes=(),
    )


def _specification(value: ir.Value) -> InputSpec:
    assert value.shape is not None and value.dtype is not None
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return InputSpec(name=value.name or "", shape=shape, dtype=np.dtype(value.dtype.numpy()))
