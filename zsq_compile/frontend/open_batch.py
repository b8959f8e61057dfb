"""Bring a model into the form that everything inside works on: an open batch, on axis 0 of every input and output.

A batch that the file fixes is opened where ONNX Runtime shows that the graph computes for two and for three batches
what it computes for each of them alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from backends.session import RuntimeModelError, open_session
from passes.normalize.batch_first import put_batch_first
from passes.normalize.infer_shapes import InferShapes
from passes.normalize.open_batch import BatchError, open_batch
from zsq_compile.data.batch_axes import FIRST, BatchAxes
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.frontend.equivalence import TOLERANCE, difference, random_input

Feed = dict[str, NDArray[Any]]

_COUNTS = (1, 2, 3)  # batches that are run at once


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class InnerForm:
    """A model to work on.

    Attributes:
        model: with an open batch, on axis 0, where that was possible.
        inputs: of ``model``.
        axes: where the file has its batch.
        added: nodes that stand behind inputs and in front of outputs because of that.
        reason: why a fixed batch was not opened; None where it was, or was open.

    """

    model: ir.Model
    inputs: tuple[InputSpec, ...]
    axes: BatchAxes = FIRST
    added: tuple[str, ...] = ()
    reason: str | None = None

    def one_by_one(self) -> "InnerForm":
        """Run samples one by one, though the batch stays open."""
        inputs = tuple(
            replace(spec, shape=(1, *spec.shape[1:])) if spec.shape[:1] == (None,) else spec for spec in self.inputs
        )
        return replace(self, inputs=inputs, axes=replace(self.axes, alone=True))


def as_inner_form(
    model: ir.Model,
    original: onnx.ModelProto,
    inputs: Sequence[InputSpec],
    others: Sequence[Sequence[InputSpec]] = (),
) -> InnerForm:
    """Open the batch of a model where it is fixed and that is proven right, and put it on axis 0.

    Args:
        model: a float model in normal form; it is not changed.
        original: the graph that ``model`` was made from, the reference.
        inputs: of both, as the file has them.
        others: the same with other sizes, at which both run; the batch is opened only where that is right there, too.

    """
    axes = {spec.name: spec.batch_axis for spec in inputs}
    sizes = {spec.shape[axis] for spec in inputs if (axis := spec.batch_axis) is not None}
    reason = None
    opened, outputs = model, None
    if len(sizes) == 1 and None not in sizes and None not in axes.values():
        try:
            opened, outputs = _open(model, original, [inputs, *others])
            inputs = [_with_batch(spec, None) for spec in inputs]
        except (BatchError, RuntimeModelError) as error:
            reason = str(error).strip().splitlines()[0]
    if outputs is None:
        outputs = _output_axes(original, inputs)
    if opened is model and not any(axes.values()) and None not in axes.values() and not any(outputs.values()):
        return InnerForm(model=model, inputs=tuple(inputs), reason=reason)
    opened = opened.clone() if opened is model else opened
    added = put_batch_first(opened, axes, outputs)
    opened = InferShapes()(opened).model
    return InnerForm(
        model=opened,
        inputs=tuple(batch_first(spec) for spec in inputs),
        axes=BatchAxes(inputs=axes, outputs=outputs),
        added=added,
        reason=reason,
    )


def _open(
    model: ir.Model, original: onnx.ModelProto, sizes: Sequence[Sequence[InputSpec]]
) -> tuple[ir.Model, dict[str, int]]:
    """Open a fixed batch, and prove it at all sizes; return the model, and the axes of the outputs' batches."""
    axes = {spec.name: spec.batch_axis for spec in sizes[0] if spec.batch_axis is not None}
    opened = model.clone()
    outputs = open_batch(opened, axes)
    rng = np.random.default_rng(0)
    session = open_session(original, lean=True)
    runs = []
    for inputs in sizes:
        feeds = [{spec.name: random_input(spec, rng, wide=wide) for spec in inputs} for wide in (False, True, False)]
        runs.append((inputs, feeds, [session.run(feed) for feed in feeds]))
    del session
    together = open_session(ir.to_proto(_without_sizes(opened)), lean=True)
    for inputs, feeds, alone in runs:
        _require_alike(together, axes, outputs, feeds, alone)
        _require_independent(together, inputs, outputs, feeds[0], alone[0])
    return opened, outputs


def _without_sizes(model: ir.Model) -> ir.Model:
    """Return a copy without the sizes that are worked with, which would keep it from running at others."""
    copy = model.clone()
    for value in copy.graph.inputs:
        rank = 0 if value.shape is None else len(value.shape)
        value.shape = None if value.shape is None else ir.Shape([f"{value.name}_{axis}" for axis in range(rank)])
    for value in (*copy.graph.outputs, *(value for node in copy.graph for value in node.outputs)):
        value.shape = None
    return copy


def _require_alike(
    together: Any, axes: Mapping[str, int], outputs: Mapping[str, int], feeds: Sequence[Feed], alone: Sequence[Feed]
) -> None:
    """Raise BatchError if batches at once come out otherwise than each by itself."""
    for count in _COUNTS:
        feed = {name: np.concatenate([one[name] for one in feeds[:count]], axis=axes[name]) for name in feeds[0]}
        got = together.run(feed)
        for name, axis in outputs.items():
            wanted = np.concatenate([one[name] for one in alone[:count]], axis=axis)
            if difference(wanted, got[name]) > TOLERANCE:
                raise BatchError(f"output '{name}' of a batch depends on the batches beside it")


def _require_independent(
    together: Any, inputs: Sequence[InputSpec], outputs: Mapping[str, int], feed: Feed, wanted: Feed
) -> None:
    """Raise BatchError if a sample of a batch of several comes out otherwise by itself."""
    axes = {spec.name: int(spec.batch_axis or 0) for spec in inputs}
    batch = next(iter(feed.values())).shape[next(iter(axes.values()))]
    if batch == 1:
        return
    got = together.run({name: np.take(array, [0], axis=axes[name]) for name, array in feed.items()})
    for name, axis in outputs.items():
        if difference(np.take(wanted[name], [0], axis=axis), got[name]) > TOLERANCE:
            raise BatchError(f"output '{name}' of a sample depends on the samples beside it")


def _output_axes(original: onnx.ModelProto, inputs: Sequence[InputSpec]) -> dict[str, int]:
    """Axis along which each output holds the batch, seen by running two; outputs on axis 0 and without are left out."""
    fixed = all(None not in spec.shape for spec in inputs)
    if fixed or not any(_may_be_elsewhere(value) for value in original.graph.output):
        return {}
    session = open_session(original, lean=True)
    rng = np.random.default_rng(0)
    shapes = []
    for count in (2, 3):
        specs = [_with_batch(spec, count) if None in spec.shape else spec for spec in inputs]
        made = session.run({spec.name: random_input(spec, rng, wide=False) for spec in specs})
        shapes.append({name: array.shape for name, array in made.items()})
    found = {}
    for name, one in shapes[0].items():
        differing = [axis for axis, pair in enumerate(zip(one, shapes[1][name], strict=False)) if pair[0] != pair[1]]
        if len(differing) == 1 and differing[0] > 0 and one[differing[0]] == 2:
            found[name] = differing[0]
    return found


def _may_be_elsewhere(value: onnx.ValueInfoProto) -> bool:
    """Whether the declared shape of an output lets its batch be on another axis than 0."""
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    return not tensor.HasField("shape") or (len(dims) > 1 and dims[0].dim_value > 0)


def _with_batch(spec: InputSpec, size: int | None) -> InputSpec:
    axis = spec.batch_axis
    if axis is None:
        return spec
    return replace(spec, shape=(*spec.shape[:axis], size, *spec.shape[axis + 1 :]))


def batch_first(spec: InputSpec) -> InputSpec:
    """Return an input as it is inside, from what the file has."""
    axis = spec.batch_axis
    if axis == 0:
        return spec
    if axis is None:
        return replace(spec, shape=(None, *spec.shape), layout=None)
    return replace(spec, layout=None, shape=(spec.shape[axis], *spec.shape[:axis], *spec.shape[axis + 1 :]))
