"""Choose sizes for the inputs of a graph that leaves them open: moderate ones that the graph is seen to run at."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np
import onnx

from backends.session import RuntimeModelError, Session, open_session
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.frontend.equivalence import random_input
from zsq_compile.frontend.size_clues import UNNAMED, largest_strides, wanted_sizes

Shape = tuple[int | None, ...]
Sizes = dict[str, int]
"""Size by name of an open one."""

_DENSE, _WHOLE = 10, 7  # strides in a side: of a network with maps as outputs (320 at 32), and of another (224)
_LEAST_SIDE, _LARGEST_SIDE, _LENGTH = 32, 320, 128
_SIDES = (224, 256, 192, 160, 128, 96, 64, 48, 32, 112, 299, 320, 384, 416, 448, 512, 640, 28, 40, 80, 300, 16)
_LOW = (32, 48, 64, 96)  # heights of lines of text and of spectrograms
_LENGTHS = (256, 64, 512, 1024, 16, 2048, 4096, 8000, 16000, 8, 32)
_MOST_TRIALS = 64
_MOST_ELEMENTS = 60_000_000  # of all values of one sample: a quarter of a gigabyte
_SMALL = 1024  # elements; larger weights need not travel to the inference


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenSizes:
    """Sizes to work with.

    Attributes:
        inputs: with sizes in all places but an open batch.
        others: inputs with other sizes, at which the graph runs too; empty where no other ones were found.
        reason: what the sizes were chosen by, in words.
        movable: whether there are open sizes that no weights decide.

    """

    inputs: tuple[InputSpec, ...]
    others: tuple[tuple[InputSpec, ...], ...] = ()
    reason: str = ""
    movable: bool = False


class NoSizesError(ValueError):
    """The graph does not run at any of the sizes that were tried; the message is the runtime's."""


def choose_sizes(proto: onnx.ModelProto, inputs: Sequence[InputSpec], given: Mapping[str, Shape]) -> ChosenSizes:
    """Choose sizes for open axes beside the batch, and find others that the graph runs at.

    Args:
        proto: a graph that the runtime can load.
        inputs: as the file declares them; None stands for an open size.
        given: sizes by name of the input, as the user wants them; None leaves one to be chosen.

    Raises:
        NoSizesError: the graph runs at none of the sizes that were tried.

    """
    graph = _OpenGraph(proto, inputs)
    sizes: Sizes = {}
    for spec in inputs:
        for axis, size in enumerate(given.get(spec.name, ())):
            if size is not None and (spec.name, axis) in graph.names:
                sizes.setdefault(graph.names[spec.name, axis], size)
    strides = largest_strides(proto)
    stride, weights = max(strides), graph.wanted()
    text = str(stride) if len(set(strides)) == 1 else f"{strides[0]} and {strides[1]}"
    reasons = [f"strides multiply to {text}"] if stride > 1 else []
    reasons += [f"its weights want {', '.join(map(str, sorted(set(weights.values()))))} there"] if weights else []
    free = [name for name in graph.open_names() if name not in sizes and name not in weights]
    chosen = graph.first_that_runs(_assignments(graph, {**weights, **sizes}, free, strides))
    movable = [name for name in graph.open_names() if name not in weights]
    others = _other_sizes(graph, chosen, movable, strides) if movable else []
    return ChosenSizes(
        inputs=graph.sized(chosen),
        others=tuple(graph.sized(one) for one in others),
        reason="; ".join(reasons) or "the graph runs at them",
        movable=bool(movable),
    )


class _OpenGraph:
    """A graph with open sizes, each with a name that equal ones share, and its session."""

    def __init__(self, proto: onnx.ModelProto, inputs: Sequence[InputSpec]) -> None:
        self.proto, self.inputs = proto, tuple(inputs)
        declared = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
        self.names: dict[tuple[str, int], str] = {}
        for spec in inputs:
            for axis, size in enumerate(spec.shape):
                if size is None and axis != spec.batch_axis:
                    own = declared[spec.name][axis].dim_param
                    self.names[spec.name, axis] = f"{spec.name}[{axis}]" if own in UNNAMED else own
        self._session: Session | None = None
        self._skeleton: onnx.ModelProto | None = None

    def open_names(self) -> list[str]:
        """Name every open size once."""
        return list(dict.fromkeys(self.names.values()))

    def wanted(self) -> Sizes:
        """Sizes that weights want."""
        found: Sizes = {}
        for spec in self.inputs:
            for axis, size in wanted_sizes(self.proto, spec.name, len(spec.shape)).items():
                if (spec.name, axis) in self.names:
                    found.setdefault(self.names[spec.name, axis], size)
        return found

    def sides(self, free: Sequence[str]) -> tuple[list[str], list[str]]:
        """Split open sizes into heights and widths (and depths) of maps; what is neither is a length."""
        tall: list[str] = []
        wide: list[str] = []
        for spec in self.inputs:
            axes = [name for (owner, _), name in self.names.items() if owner == spec.name and name in free]
            if len(spec.shape) >= 4:
                tall += axes[:-1]
                wide += axes[-1:]
        return tall, wide

    def is_dense(self) -> bool:
        """Whether an output has open sizes of its own, beside the first axis, or an unknown rank."""
        tensors = [value.type.tensor_type for value in self.proto.graph.output]
        return any(
            not tensor.HasField("shape") or any(dim.dim_value <= 0 for dim in tensor.shape.dim[1:])
            for tensor in tensors
        )

    def sized(self, sizes: Sizes) -> tuple[InputSpec, ...]:
        """Return the inputs with sizes in place of open ones; an open batch stays open."""
        return tuple(
            replace(
                spec,
                shape=tuple(
                    sizes[self.names[spec.name, axis]] if (spec.name, axis) in self.names else size
                    for axis, size in enumerate(spec.shape)
                ),
            )
            for spec in self.inputs
        )

    def first_that_runs(self, candidates: Iterator[Sizes]) -> Sizes:
        """Return the first candidate that runs; those that inference refuses, or that are large, are tried last."""
        late: list[Sizes] = []
        for number, sizes in enumerate(candidates):
            if number >= _MOST_TRIALS:
                break
            if not self.is_promising(sizes):
                late.append(sizes)
            elif self.failure(sizes) is None:
                return sizes
        failure: str | None = "there is nothing to try"
        for sizes in late:
            failure = self.failure(sizes)
            if failure is None:
                return sizes
        raise NoSizesError(failure)

    def failure(self, sizes: Sizes) -> str | None:
        """Run one sample; return why that fails, None where it does not, and its outputs are numbers."""
        if self._session is None:
            self._session = open_session(self.proto, optimize="basic")
        rng = np.random.default_rng(0)
        one = [replace(s, shape=tuple(1 if size is None else size for size in s.shape)) for s in self.sized(sizes)]
        try:
            made = self._session.run({spec.name: random_input(spec, rng, wide=False) for spec in one})
        except RuntimeModelError as error:
            return str(error)
        for name, array in made.items():
            if array.size == 0 or (np.issubdtype(array.dtype, np.floating) and np.isnan(array).any()):
                return f"output '{name}' is empty, or holds what is no number"  # too small to be pooled
        return None

    def is_promising(self, sizes: Sizes) -> bool:
        """Whether shapes can be inferred at these sizes, none of them empty, and values are not too many."""
        trial = onnx.ModelProto()
        trial.CopyFrom(self._without_weights())
        specs = {spec.name: spec for spec in self.sized(sizes)}
        for value in trial.graph.input:
            if value.name in specs:
                for dim, size in zip(value.type.tensor_type.shape.dim, specs[value.name].shape, strict=True):
                    dim.dim_value = 1 if size is None else size
        try:
            found = onnx.shape_inference.infer_shapes(trial, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError:
            return False
        dims = [list(value.type.tensor_type.shape.dim) for value in found.graph.value_info]
        if any(dim.HasField("dim_value") and dim.dim_value < 1 for one in dims for dim in one):
            return False  # too small to be pooled: the runtime goes on with nothing
        elements = sum(prod(max(int(dim.dim_value), 1) for dim in one) for one in dims)
        return elements <= _MOST_ELEMENTS

    def _without_weights(self) -> onnx.ModelProto:
        if self._skeleton is None:
            made = onnx.ModelProto(ir_version=self.proto.ir_version, opset_import=self.proto.opset_import)
            made.graph.name = "sizes"
            made.graph.node.extend(self.proto.graph.node)
            made.graph.input.extend(self.proto.graph.input)
            made.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in self.proto.graph.output)
            for tensor in self.proto.graph.initializer:
                if prod(tensor.dims) <= _SMALL:
                    made.graph.initializer.append(tensor)
                else:
                    made.graph.input.append(
                        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                    )
            self._skeleton = made
        return self._skeleton


def _assignments(graph: _OpenGraph, known: Sizes, free: Sequence[str], strides: tuple[int, int]) -> Iterator[Sizes]:
    """Sizes to try, the most usual ones first."""
    tall, wide = graph.sides(free)
    lengths = [name for name in free if name not in (*tall, *wide)]
    sides = _list_sides(strides, _DENSE if graph.is_dense() else _WHOLE)
    length = _whole(max(_DENSE * max(strides), _LENGTH), max(strides))
    channels = _channels(graph, free)
    choices = product(enumerate(sides if tall or wide else sides[:1]), enumerate((length, *_LENGTHS)))
    ordered = sorted(choices, key=lambda one: one[0][0] + one[1][0])
    seen: list[Sizes] = []
    for (_, (height, width)), (_, step) in ordered:
        for channel in (3, 1) if channels else (0,):
            sizes = {**dict.fromkeys(tall, height), **dict.fromkeys(wide, width), **dict.fromkeys(lengths, step)}
            sizes |= dict.fromkeys(channels, channel)
            if sizes not in seen:
                seen.append(sizes)
                yield {**sizes, **known}


def _list_sides(strides: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Heights and widths: so many strides; heights of one stride first where heights shrink more than widths do."""
    down, right = strides
    side = min(max(count * max(strides), _LEAST_SIDE), _LARGEST_SIDE)
    square = _whole(side, max(strides))
    low = [_whole(_LEAST_SIDE, down), *_LOW]
    lines = [(one, _whole(side, right)) for one in low]
    first = [(square, square)]
    return [*(lines[:1] if down != right else []), *first, *lines, *((one, one) for one in _SIDES)]


def _channels(graph: _OpenGraph, free: Sequence[str]) -> list[str]:
    """Open sizes that are channels by their place alone: axis 1 of maps of which all axes are open."""
    return [
        graph.names[spec.name, 1]
        for spec in graph.inputs
        if len(spec.shape) == 4
        and all((spec.name, axis) in graph.names and graph.names[spec.name, axis] in free for axis in (1, 2, 3))
    ]


def _whole(size: int, stride: int) -> int:
    return -(-size // stride) * stride


def _other_sizes(graph: _OpenGraph, chosen: Sizes, movable: Sequence[str], strides: tuple[int, int]) -> list[Sizes]:
    """Find up to three other assignments that run: all sizes moved, by whole strides and by less, up and down."""
    stride = max(strides)
    steps: tuple[Callable[[int], int], ...] = (
        lambda size: _whole(size + max(size // 2, 1), stride),
        lambda size: size + stride,
        lambda size: 2 * size,
        lambda size: size - 1,
        lambda size: size - stride,
        lambda size: size // 2,
    )

    inferred = graph.is_promising(chosen)

    def run(changed: Sizes) -> Sizes | None:
        sizes = {**chosen, **changed}
        if min(sizes.values()) < 1 or sizes == chosen or (inferred and not graph.is_promising(sizes)):
            return None
        return sizes if graph.failure(sizes) is None else None

    def moved(names: Sequence[str], step: Callable[[int], int]) -> Sizes | None:
        return run({name: step(chosen[name]) for name in names})

    names = list(movable)
    found = moved(names, steps[0])
    if found is None:  # some sizes cannot move, or not so far
        alone = {name: next((one[name] for step in steps if (one := moved([name], step))), None) for name in movable}
        changed = {name: size for name, size in alone.items() if size is not None}
        names = list(changed)
        found = run(changed) if changed else None
        if found is None:  # or only together
            names = names or list(movable)
            found = next((sizes for step in steps[1:] if (sizes := moved(names, step))), None)
        if found is None:
            names = names[-1:]
            found = next((sizes for step in steps if (sizes := moved(names, step))), None)
    if found is None:
        return []
    odd = moved(names, lambda size: size + 1) if stride > 1 else None
    # what is cut to a constant length is as long at larger sizes, and shorter at smaller ones only
    quarter, half = (
        moved(names, step) for step in (lambda x: _whole(x // 4, stride), lambda x: _whole(x // 2, stride))
    )
    others: list[Sizes] = []
    for sizes in (found, odd, quarter or half):
        others += [sizes] if sizes and sizes not in others else []
    return others
