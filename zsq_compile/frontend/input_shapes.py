"""Shapes of a model's inputs: what the file declares, what the user gives, and what is worked with in open places."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import onnx

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.errors import ConfigError
from zsq_compile.frontend.batch_axes import find_batch_axes
from zsq_compile.frontend.choose_sizes import ChosenSizes, NoSizesError, choose_sizes
from zsq_compile.frontend.size_clues import first_weight_rank

Shape = tuple[int | None, ...]


def settle_inputs(
    proto: onnx.ModelProto, path: Path, given: Mapping[str, Shape], *, fix: bool = False
) -> tuple[InputSpec, ...]:
    """Return the inputs as the file declares them; with ``fix``, write the given sizes into the graph first, in place.

    Initializers are removed from the inputs, and open sizes get names.

    Raises:
        ConfigError: a given shape names no input or contradicts the file, or the rank of an input is not known.

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
    settled = [_settle(proto, value, path, given.get(value.name), fix=fix) for value in proto.graph.input]
    if fix:
        forget_output_sizes(proto)
    return find_batch_axes(proto, settled)


def _settle(
    proto: onnx.ModelProto, value: onnx.ValueInfoProto, path: Path, given: Shape | None, *, fix: bool
) -> InputSpec:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        rank = first_weight_rank(proto, value.name) if given is None else len(given)
        if rank is None:
            raise ConfigError(
                f"input '{value.name}' of {path} has no shape, not even a number of axes: add --input-shape "
                f'"{value.name}:1x3x224x224", with its sizes'
            )
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(rank))
    dims = tensor.shape.dim
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in dims]
    if given is not None:
        _require_match(value.name, sizes, given)
        if fix:
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


def has_open_sizes(spec: InputSpec) -> bool:
    """Whether an input leaves more open than its batch."""
    return any(size is None for axis, size in enumerate(spec.shape) if axis != spec.batch_axis)


def find_sizes(
    proto: onnx.ModelProto, path: Path, inputs: tuple[InputSpec, ...], given: Mapping[str, Shape]
) -> ChosenSizes:
    """Find the sizes to work with in open places beside the batch: those given, and others that the graph runs at.

    Raises:
        ConfigError: the graph runs at none that were tried, nor at those given.

    """
    if not any(map(has_open_sizes, inputs)):
        return ChosenSizes(inputs=inputs)
    try:
        return choose_sizes(proto, inputs, given)
    except NoSizesError as error:
        first = str(error).strip().splitlines()[0]
        open_ones = [spec for spec in inputs if has_open_sizes(spec)]
        found = "; ".join(f"'{spec.name}' is {describe_shape(spec.shape)}" for spec in open_ones)
        example = f'--input-shape "{open_ones[0].name}:{describe_shape(open_ones[0].shape)}"'
        raise ConfigError(
            f"{path} leaves sizes of its inputs open ({found}; ? is open), and does not run at "
            f"{'those given' if given else 'any that were tried'} ({first}). Add {example}, with the sizes that the "
            "network is used with in the place of ?"
        ) from error


def fix_sizes(proto: onnx.ModelProto, inputs: tuple[InputSpec, ...]) -> None:
    """Write sizes into the graph's inputs, in place; what is None stays open."""
    specs = {spec.name: spec for spec in inputs}
    for value in proto.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, specs[value.name].shape, strict=True):
            if size is not None:
                dim.dim_value = size
    forget_output_sizes(proto)


def forget_output_sizes(proto: onnx.ModelProto) -> None:
    """Clear the shapes of outputs, which had the same open sizes as the inputs; inference finds them again."""
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")


def fix_batch(proto: onnx.ModelProto, inputs: tuple[InputSpec, ...], batch: int) -> None:
    """Set every open batch, in place; ``inputs`` have sizes everywhere else."""
    declared = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
    for spec in inputs:
        if spec.batch_axis is not None and spec.shape[spec.batch_axis] is None:
            declared[spec.name][spec.batch_axis].dim_value = batch
    forget_output_sizes(proto)


def with_batch(inputs: tuple[InputSpec, ...], batch: int) -> tuple[InputSpec, ...]:
    """Fix the open batch of inputs that have sizes everywhere else."""
    return tuple(replace(spec, shape=tuple(batch if size is None else size for size in spec.shape)) for spec in inputs)


def describe_shape(shape: Shape) -> str:
    """Write a shape as ``--input-shape`` takes it, such as ``?x3x224x224``."""
    return "x".join("?" if size is None else str(size) for size in shape) or "a scalar"


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
