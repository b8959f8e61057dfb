"""What is known of a network's inputs and outputs before anybody says what they mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from zsq_compile.metrics import class_axis
from zsq_compile.tasks.by_samples import bring_in_front
from zsq_compile.tasks.find_layers import sizes_of, tail_operators
from zsq_compile.tasks.find_stretches import Stretch
from zsq_compile.tasks.find_tails import read_stretches

Shape = tuple[int | None, ...]

_COLOURS = (1, 3, 4)
_MOST_LIST_COLUMNS = 512  # a longer axis of a list is that of the places, if the other one is shorter


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Pixels of a picture that goes in."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputFacts:
    """One output.

    Attributes:
        value: of the graph.
        shape: with the batch first; None for open sizes.
        values: (count, ...) on samples; None without.
        is_float: whether its numbers are floats.
        picture: that goes in; None without.
        entries: of axis 0 of the file for each sample, where it is no axis of samples; ``shape`` and ``values`` have
            the samples in front of it then.
        samples: axis of the samples in the file.
        order: axis of the value in the graph for each axis of ``shape``; -1 for one that it has not.

    """

    value: ir.Value
    shape: Shape
    values: NDArray[Any] | None
    is_float: bool
    picture: Picture | None
    entries: int = 1
    samples: int = 0
    order: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Name of the output."""
        return str(self.value.name)

    @cached_property
    def operators(self) -> frozenset[str]:
        """Operators behind the last layers."""
        return tail_operators(self.value)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a map; zeros of any other output."""
        axis, shape = self.axis, self.shape
        if axis is None or len(shape) not in (4, 5):
            return 0, 0
        sides = [size or 0 for place, size in enumerate(shape) if place and place != axis][-2:]
        return (sides[0], sides[1]) if sides != [1, 1] and len(sides) == 2 and min(sides) > 0 else (0, 0)

    @cached_property
    def stride(self) -> float | None:
        """Pixels of the picture between two places of a map; None where there is none, or the sides differ."""
        height, width = self.grid
        if self.picture is None or not height:
            return None
        ratio = self.picture.height / height, self.picture.width / width
        return _round_stride(*ratio)

    @cached_property
    def axis(self) -> int | None:
        """Axis of the columns; None of one number for each sample, and where a size of the shape is missing."""
        return _find_axis(self)

    @property
    def columns(self) -> int:
        """Size of the axis of the columns; 1 without, 0 where it is open."""
        return 1 if self.axis is None else self.shape[self.axis] or 0

    @cached_property
    def places(self) -> int:
        """Numbers that one column has for each sample; 0 where that is open."""
        rest = [size or 0 for place, size in enumerate(self.shape) if place not in (0, self.axis)]
        return math.prod(rest)

    def stretches(self, axis: int | None = None) -> tuple[Stretch, ...]:
        """Columns by how they come about (see ``read_stretches``); empty where the graph does not tell."""
        along = self.axis if axis is None else axis
        if along is None or len(self.order) != len(self.shape) or self.order[along] < 0:
            return ()
        return self._known_stretches(self.order[along])

    def _known_stretches(self, axis: int) -> tuple[Stretch, ...]:
        memory: dict[int, tuple[Stretch, ...]] = self.__dict__.setdefault("_memory", {})
        if axis not in memory:
            memory[axis] = read_stretches(self.value, axis)
        return memory[axis]

    @cached_property
    def rows(self) -> NDArray[Any] | None:
        """Samples as (count, places, columns); None without samples."""
        if self.values is None or not self.values.size or self.axis is None:
            return None
        moved = np.moveaxis(self.values, self.axis, -1)
        return moved.reshape(len(moved), -1, moved.shape[-1])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NetworkFacts:
    """Inputs and outputs of a network."""

    model: ir.Model
    inputs: tuple[ir.Value, ...]
    outputs: tuple[OutputFacts, ...]
    picture: Picture | None


def read_facts(model: ir.Model, outputs: Mapping[str, NDArray[Any]] | None) -> NetworkFacts:
    """Read the facts off a graph, and off its outputs on samples where there are some."""
    inputs = tuple(value for value in model.graph.inputs if not value.is_initializer())
    batch = _read_batch(inputs)
    picture = next((found for value in inputs if (found := _read_picture(value)) is not None), None)
    return NetworkFacts(
        model=model,
        inputs=inputs,
        outputs=tuple(
            _read_output(value, (outputs or {}).get(str(value.name)), picture, batch) for value in model.graph.outputs
        ),
        picture=picture,
    )


def _read_batch(inputs: Sequence[ir.Value]) -> int | None:
    """Read the number of samples that inputs have; None where it is open, or they differ, or steps come first."""
    shapes = [sizes_of(value) for value in inputs]
    timed = any(shape is not None and len(shape) == 3 and shape[1] in (None, 1) and shape[0] != 1 for shape in shapes)
    firsts = {shape[0] if shape else None for shape in shapes}
    return None if timed or len(firsts) != 1 else firsts.pop()


def _read_picture(value: ir.Value) -> Picture | None:
    shape = sizes_of(value)
    if shape is None or len(shape) != 4 or None in shape[1:]:
        return None
    one, two, three = (size or 0 for size in shape[1:])
    if one in _COLOURS and two > 4 and three > 4:
        return Picture(channels=one, height=two, width=three)
    if three in _COLOURS and one > 4 and two > 4:
        return Picture(channels=three, height=one, width=two)
    return None


def _read_output(
    value: ir.Value, values: NDArray[Any] | None, picture: Picture | None, batch: int | None
) -> OutputFacts:
    """Read one output; ``batch`` is the number of samples that the network takes at a time, None where it is open."""
    single = batch == 1
    declared = sizes_of(value)
    shape: Shape = (None,) if declared is None else declared
    dtype = value.dtype
    is_float = dtype is None or dtype.is_floating_point()
    if values is not None:
        is_float = bool(np.issubdtype(values.dtype, np.floating))
        shape = (None, *values.shape[1:])
    order = tuple(range(len(declared or ())))
    first = (declared or (1,))[0] or 1
    entries, samples = 1, 0
    if single and picture is not None and first > 1 and len(shape) == 2:  # a list of places without a batch
        entries, order = first, (-1, *order)
        shape = (None, first, *shape[1:])
    elif declared is not None and len(declared) == 3 and 1 < first != batch and declared[1] in (None, 1):  # time first
        entries, samples, order = first, 1, (1, 0, 2)
        shape = (None, first, *shape[2:])
    if values is not None and entries > 1:
        values = None if len(values) % entries else bring_in_front(values, samples, entries)
    return OutputFacts(
        value=value,
        shape=shape or (None,),
        values=values,
        is_float=is_float,
        picture=picture,
        entries=entries,
        samples=samples,
        order=order,
    )


def _find_axis(facts: OutputFacts) -> int | None:
    shape = facts.shape
    if len(shape) < 2:
        return None
    if len(shape) == 2:
        return 1
    sizes = tuple(size or 0 for size in shape)
    wide = [place for place in range(1, len(sizes)) if sizes[place] != 1]
    if len(sizes) == 3:
        return _list_axis(facts, sizes)
    if len(wide) <= 1 and len(sizes) > 3:
        return wide[0] if wide else 1
    if len(sizes) == 4 and sizes[2] == 1 and sizes[1] > 1:  # boxes of one class each
        return 3
    if facts.picture is not None:
        found = next((axis for axis in _map_axes(sizes) if _is_grid(facts.picture, sizes, axis)), None)
        if found is not None:
            return found
    return class_axis(sizes) or (1 if len(sizes) == 4 else len(sizes) - 1)


def _list_axis(facts: OutputFacts, sizes: tuple[int, ...]) -> int:
    """Axis of the columns of (N, places, columns) or (N, columns, places)."""
    kinds = {axis: facts.stretches(axis) for axis in (1, 2)}
    for axis in (2, 1):
        if any(one.squash in ("softmax", "log softmax", "unit length") for one in kinds[axis]):
            return axis
    for tell in (_are_mixed, _are_channels):
        told = [axis for axis in (2, 1) if kinds[axis] and tell(kinds[axis])]
        if len(told) == 1 and sizes[told[0]] <= _MOST_LIST_COLUMNS:
            return told[0]
    return 1 if 0 < sizes[1] < sizes[2] and (sizes[1] > 1 or sizes[2] > _MOST_LIST_COLUMNS) else 2


def _are_mixed(stretches: Sequence[Stretch]) -> bool:
    """Whether columns went through different squashes, as boxes and scores do and places do not."""
    return len({one.squash for one in stretches}) > 1


def _are_channels(stretches: Sequence[Stretch]) -> bool:
    return all(one.channels for one in stretches)


def _map_axes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (1, 3) if len(sizes) == 4 else (4, 2)


def _is_grid(picture: Picture, sizes: tuple[int, ...], axis: int) -> bool:
    """Whether the last two axes beside the columns run over the picture."""
    sides = [size for place, size in enumerate(sizes) if place and place != axis][-2:]
    return min(sides) > 0 and _round_stride(picture.height / sides[0], picture.width / sides[1]) is not None


def _round_stride(down: float, across: float) -> float | None:
    """Return the stride of a grid, a power of two where the sides are rounded; None where the two directions differ."""
    if abs(down - across) > 0.15 * max(down, across):
        return None
    nearest = 2.0 ** round(math.log2(down))
    return nearest if abs(nearest - (down + across) / 2) < 0.12 * nearest else (down + across) / 2
