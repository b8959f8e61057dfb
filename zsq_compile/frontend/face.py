"""The face of a model: the shapes of its inputs and outputs as the user's file declares them.

Inside, sizes that the file leaves open have numbers. What is written has the face of the user's file again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from passes.normalize.batch_first import put_batch_back
from passes.normalize.infer_shapes import InferShapes, Trial
from passes.normalize.outline_bodies import inline_bodies
from zsq_compile.data.batch_axes import BatchAxes
from zsq_compile.data.input_spec import InputSpec
from zsq_compile.files import write_model
from zsq_compile.frontend.choose_sizes import ChosenSizes

Dims = tuple[int | str | None, ...]
"""Sizes of a value: numbers, and names of open ones, None where they have none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """What a model shows of itself.

    Attributes:
        inputs: shapes by name.
        outputs: shapes by name; an output whose shape the file does not declare is missing.
        axes: where the file has its batch.
        added: nodes inside that put the batch on axis 0.
        kept: the model inside has the same face, so that nothing has to be written back.

    """

    inputs: Mapping[str, Dims]
    outputs: Mapping[str, Dims]
    axes: BatchAxes
    added: tuple[str, ...]
    kept: bool

    @classmethod
    def of(cls, proto: onnx.ModelProto, axes: BatchAxes, added: tuple[str, ...], *, kept: bool) -> "Face":
        """Read the face of a graph."""
        inputs, outputs = _dims(proto.graph.input), _dims(proto.graph.output)
        return cls(inputs=inputs, outputs=outputs, axes=axes, added=added, kept=kept)

    @property
    def fixed_batch(self) -> int | None:
        """Batch that the file insists on; None where it is open."""
        axes = {name: self.axes.inputs.get(name, 0) for name in self.inputs}
        sizes = (dims[axis] for name, dims in self.inputs.items() if (axis := axes[name]) is not None and dims)
        return next((size for size in sizes if isinstance(size, int)), None)

    def working_sizes(self, inputs: Sequence[InputSpec]) -> dict[str, tuple[int | None, ...]]:
        """Shapes, as the file has them, with the sizes of ``inputs`` in open places, of those open beyond axis 0."""
        found: dict[str, tuple[int | None, ...]] = {}
        for spec in inputs:
            axis, sizes = spec.batch_axis, list(spec.shape[1:])
            if axis is not None:
                sizes.insert(axis, 1 if axis else None)
            if any(not isinstance(size, int) for size in self.inputs[spec.name][1:]):
                found[spec.name] = tuple(sizes)
        return found

    def write(self, model: ir.Model, path: Path) -> None:
        """Write a model as a file with this face; the model is not changed. ConfigError where it cannot be written."""
        model = inline_bodies(model)
        if not self.kept:
            copy = model.clone()
            for node, given in zip(copy.graph, model.graph, strict=True):
                node.name = given.name  # cloning names what has no name, and names take room
            self._put_on(copy)
            model = copy
        write_model(model, path)

    def _put_on(self, model: ir.Model) -> None:
        put_batch_back(model, self.added)
        for value in (*model.graph.inputs, *model.graph.outputs):
            shapes = self.inputs if value.is_graph_input() else self.outputs  # an initializer may be an output
            dims = shapes.get(value.name or "")
            value.shape = None if dims is None else ir.Shape(dims)
        for node in model.graph:
            for value in node.outputs:
                if not value.is_graph_output():
                    value.shape = None  # it has the sizes that were worked with


def _dims(values: Sequence[onnx.ValueInfoProto]) -> dict[str, Dims]:
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in value.type.tensor_type.shape.dim
        )
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def with_sizes(model: ir.Model, inputs: Sequence[InputSpec]) -> ir.Model:
    """Set the sizes of a model's inputs where they are numbers, and infer all shapes anew; the model is changed."""
    specs = {spec.name: spec for spec in inputs}
    changed = False
    for value in model.graph.inputs:
        if value.shape is None or value.name not in specs:
            continue
        sizes = [old if size is None else size for old, size in zip(value.shape, specs[value.name].shape, strict=True)]
        changed |= list(value.shape) != sizes
        value.shape = ir.Shape(sizes)
    return InferShapes()(model).model if changed else model


def as_trials(sizes: ChosenSizes) -> tuple[Trial, ...]:
    """Return sets of all sizes of the inputs; what does not differ between them does not depend on what is open."""
    sets = enumerate((sizes.inputs, *sizes.others), start=2)
    return tuple(
        {spec.name: [batch if size is None else size for size in spec.shape] for spec in inputs}
        for batch, inputs in sets
    )
