"""Shapes of a model's inputs: given and assumed sizes for those that the file leaves open."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import onnx

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError

Shape = tuple[int | None, ...]

_USUAL_SIDE, _USUAL_LENGTH, _USUAL_CHANNELS = 224, 128, 3


def settle_inputs(proto: onnx.ModelProto, path: Path, given: Mapping[str, Shape]) -> tuple[InputSpec, ...]:
    """Write the given sizes into the graph's inputs, in place, and return their specs.

    Initializers are removed from the inputs. Only the batch, axis 0, may stay open.

    Raises:
        ConfigError: a given shape names no input or contradicts the file, or a size beside the batch is open and none
            is given.

    """
    initializers = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in initializers]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, 4)  # before version 4 every initializer had to be an input too
    names = [value.name for value in inputs]
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"--input-shape names '{name}', but the inputs of {path} are {_quoted(names)}{hint}")
    settled = [_settle(value, path, given.get(value.name)) for value in proto.graph.input]
    open_ones = [spec for spec in settled if None in spec.shape[1:]]
    if open_ones:
        raise ConfigError(_wanted(open_ones, path))
    return tuple(settled)


def _settle(value: onnx.ValueInfoProto, path: Path, given: Shape | None) -> InputSpec:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        if given is None:
            raise ConfigError(
                f"input '{value.name}' of {path} has no shape, not even a number of axes: add --input-shape "
                f'"{value.name}:1x3x224x224", with its sizes'
            )
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in given)
    dims = tensor.shape.dim
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in dims]
    if given is not None:
        _require_match(value.name, sizes, given)
        sizes = [own if own is not None else size for own, size in zip(sizes, given, strict=True)]
    for position, (dim, size) in enumerate(zip(dims, sizes, strict=True)):
        if size is not None:
            dim.dim_value = size
        elif not dim.dim_param:
            dim.dim_param = "batch" if position == 0 else f"{value.name}_{position}"
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return InputSpec(name=value.name, shape=tuple(sizes), dtype=dtype)


def _require_match(name: str, sizes: list[int | None], given: Shape) -> None:
    model = describe_shape(tuple(sizes))
    if len(given) != len(sizes):
        raise ConfigError(
            f"--input-shape gives '{name}' {len(given)} sizes ({describe_shape(given)}), "
            f"but the model takes {len(sizes)} ({model})"
        )
    for axis, (own, size) in enumerate(zip(sizes, given, strict=True)):
        if size is not None and own is not None and own != size:
            raise ConfigError(
                f"--input-shape gives axis {axis} of '{name}' the size {size}, but the file fixes it to {own} "
                f"({model}): export the model again with that size, or with an open one"
            )


def fix_batch(proto: onnx.ModelProto, inputs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    """Set every open batch to 1."""
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim[:1]:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")  # its batch was open as well; inference finds it again
    return tuple(replace(spec, shape=tuple(1 if size is None else size for size in spec.shape)) for spec in inputs)


def assume_sizes(proto: onnx.ModelProto, given: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes with usual sizes in open places, by name, of inputs not given that leave more than their batch open."""
    initializers = {tensor.name for tensor in proto.graph.initializer}
    assumed: dict[str, Shape] = {}
    for value in proto.graph.input:
        tensor = value.type.tensor_type
        if value.name in initializers or value.name in given:
            continue
        sizes: Shape = (None,) * 4
        if tensor.HasField("shape"):
            sizes = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
        if None in sizes[1:]:
            assumed[value.name] = _with_usual_sizes(sizes)
    return assumed


def _with_usual_sizes(shape: Shape) -> Shape:
    """Fill in all open sizes but the batch."""
    image: Shape = (None, _USUAL_CHANNELS, _USUAL_SIDE, _USUAL_SIDE)
    usual = image if len(shape) == 4 else (None, *(_USUAL_LENGTH,) * (len(shape) - 1))
    return tuple(guess if size is None else size for size, guess in zip(shape, usual, strict=True))


def _wanted(specs: list[InputSpec], path: Path) -> str:
    found = "; ".join(f"'{spec.name}' is {describe_shape(spec.shape)}" for spec in specs)
    options = " ".join(f'--input-shape "{spec.name}:{describe_shape(_with_usual_sizes(spec.shape))}"' for spec in specs)
    return (
        f"{path} leaves sizes of its inputs open that are needed to make data for it ({found}; ? is open). "
        f"Add {options}, with the sizes that the network will be used with"
    )


def describe_shape(shape: Shape) -> str:
    """Write a shape as ``--input-shape`` takes it, such as ``?x3x224x224``."""
    return "x".join("?" if size is None else str(size) for size in shape) or "a scalar"


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
