"""Open the batch of a graph that was exported with a fixed one.

    Reshape(x, [1, 49, 64])     ->  Reshape(x, [0, 49, 64])
    Concat(constant(1, 1, 64), x, axis=1)  ->  Concat(Expand(constant, [batch, 1, 1]), x, axis=1)

Nothing is proven here: whether the graph computes the same for two batches as for one twice is for the caller to see.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from passes.operators import RECURRENT
from passes.surgery import add_constant, free_name, free_node_name, input_at, is_standard, set_input, set_type

Sizes = tuple[int, ...]
_SMALL = 4096  # elements; larger constants are no sizes
_BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "MatMul", "PRelu", "Less", "Greater", "Equal")


class BatchError(ValueError):
    """The batch cannot be opened; the message names the node."""


def open_batch(model: ir.Model, axes: Mapping[str, int]) -> dict[str, int]:
    """Open the batch of a graph in normal form, in place.

    1. The batch of the inputs becomes an open size; sizes that are constants, and hold it, are rewritten.
    2. Shapes are followed node by node for the batch as it is and for the double.

    Args:
        model: all shapes are known.
        axes: axis of the batch of each input that has one, by name; all have the same size there.

    Returns:
        The axis of the batch of every output, by name.

    Raises:
        BatchError: a node has no inferred shape for the double batch, or an output does not hold the batch.

    """
    rewriter = _Rewriter(model, axes)
    for node in list(model.graph):
        rewriter.visit(node)
    found = {}
    for value in model.graph.outputs:
        axis = rewriter.axis(value)
        if axis is None or rewriter.single[value][axis] != rewriter.batch:
            raise BatchError(f"output '{value.name}' does not hold the batch along one axis")
        sizes: list[int | str] = list(rewriter.single[value])
        sizes[axis] = "batch"
        value.shape = ir.Shape(sizes)
        found[str(value.name)] = axis
    return found


class _Rewriter:
    """Walks a graph with the shapes that values have for the batch as it is, and for the double."""

    def __init__(self, model: ir.Model, axes: Mapping[str, int]) -> None:
        self._model, self._graph = model, model.graph
        self._version = model.graph.opset_imports.get("") or onnx.defs.onnx_opset_version()
        self.single: dict[ir.Value, Sizes] = {}
        self.double: dict[ir.Value, Sizes] = {}
        self.batch = 1
        self._count: ir.Value | None = None
        self._lead: tuple[ir.Value, int] | None = None
        for value in self._graph.inputs:
            sizes = _static(value)
            axis = axes.get(value.name or "")
            self.single[value] = self.double[value] = sizes
            if axis is not None:
                self.batch = sizes[axis]
                self.double[value] = (*sizes[:axis], 2 * sizes[axis], *sizes[axis + 1 :])
                self._lead = self._lead or (value, axis)
                opened: list[int | str] = list(sizes)
                opened[axis] = "batch"
                value.shape = ir.Shape(opened)

    def axis(self, value: ir.Value | None) -> int | None:
        """Axis along which a value holds the batch; None where it does not."""
        if value is None or value not in self.double or self.single[value] == self.double[value]:
            return None
        pairs = zip(self.single[value], self.double[value], strict=True)
        differing = [axis for axis, (one, two) in enumerate(pairs) if one != two]
        return differing[0] if len(differing) == 1 else None

    def visit(self, node: ir.Node) -> None:
        """Rewrite the constants of a node that holds the batch, and infer its shapes."""
        for output in node.outputs:
            if output.name:
                self.single[output] = self.double[output] = _static(output)
        held = [self.axis(value) for value in node.inputs]
        if all(axis is None for axis in held):
            return
        self._rewrite(node, held)
        self._infer(node)

    def _rewrite(self, node: ir.Node, held: Sequence[int | None]) -> None:
        if is_standard(node, "Reshape") and held[0] is not None:
            self._reshape(node, held[0])
        elif is_standard(node, "Expand") and held[0] is not None:
            self._expand(node)
        elif is_standard(node, "Resize") and held[0] is not None:
            self._resize(node, held[0])
        elif is_standard(node, "Concat"):
            axis = next(axis for axis in held if axis is not None)
            for place, value in enumerate(node.inputs):
                if held[place] is None and value is not None and value.const_value is not None:
                    set_input(node, place, self._repeated(value, axis))
        elif is_standard(node, *RECURRENT):
            for place in (5, 6):
                state = input_at(node, place)
                if state is not None and state.const_value is not None:
                    zero = not state.const_value.numpy().any()
                    set_input(node, place, None if zero else self._repeated(state, 1))
        elif is_standard(node, *_BROADCAST) and self.batch > 1:
            self._narrow(node)

    def _reshape(self, node: ir.Node, axis: int) -> None:
        """Let the target's size that holds the batch be copied, or be what is left."""
        source, target = node.inputs[0], node.inputs[1]
        if source is None or target is None or target.const_value is None:
            raise BatchError(f"Reshape '{node.name}' has a computed shape")
        before, after = self.single[source], self.single[node.outputs[0]]
        wanted = [int(size) for size in target.const_value.numpy()]
        place = self._place(math.prod(before[:axis]), after)
        if place is None:
            raise BatchError(f"Reshape '{node.name}' mixes the batch with other axes")
        if wanted[place] == -1 or (wanted[place] == 0 and place == axis):
            return
        if place == axis and before[axis] == after[place] and not node.attributes.get_int("allowzero", 0):
            wanted[place] = 0
        else:
            wanted = list(after)
            wanted[place] = -1
        set_input(node, 1, add_constant(self._graph, f"{node.name}.open_shape", np.array(wanted, np.int64)))

    def _place(self, outside: int, sizes: Sizes) -> int | None:
        """Find the axis that holds the batch behind so many elements."""
        passed = 1
        for axis, size in enumerate(sizes):
            if passed == outside and size % self.batch == 0:
                return axis
            passed *= size
        return None

    def _expand(self, node: ir.Node) -> None:
        target, after = node.inputs[1], self.single[node.outputs[0]]
        source = node.inputs[0]
        if target is None or target.const_value is None or source is None:
            raise BatchError(f"Expand '{node.name}' has a computed shape")
        wanted = [int(size) for size in target.const_value.numpy()]
        axis = self.axis(source)
        assert axis is not None
        place = axis + len(after) - len(self.single[source]) - (len(after) - len(wanted))
        if place >= 0 and wanted[place] != 1:
            wanted[place] = 1  # which leaves what is there
            set_input(node, 1, add_constant(self._graph, f"{node.name}.open_shape", np.array(wanted, np.int64)))

    def _resize(self, node: ir.Node, axis: int) -> None:
        """Write sizes as scales, of which that of the batch is one."""
        sizes, source = input_at(node, 3), node.inputs[0]
        if sizes is None or source is None:
            return
        if sizes.const_value is None or "axes" in node.attributes:
            raise BatchError(f"Resize '{node.name}' has computed sizes")
        wanted, before = [int(size) for size in sizes.const_value.numpy()], self.single[source]
        scales = [np.float32(size / old) for size, old in zip(wanted, before, strict=True)]
        exact = [int(np.floor(np.float32(old) * scale)) for old, scale in zip(before, scales, strict=True)]
        policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
        if exact != wanted or scales[axis] != 1.0 or policy != "stretch":
            raise BatchError(f"Resize '{node.name}' has sizes that no scales give")
        set_input(node, 2, add_constant(self._graph, f"{node.name}.scales", np.array(scales, np.float32)))
        node.resize_inputs(3)

    def _narrow(self, node: ir.Node) -> None:
        """Let constants that repeat themselves along the batch be broadcast instead."""
        after = self.single[node.outputs[0]]
        axis = next((self.axis(value) for value in node.inputs if self.axis(value) is not None), None)
        assert axis is not None
        for place, value in enumerate(node.inputs):
            if value is None or value.const_value is None:
                continue
            array = value.const_value.numpy()
            own = axis - (len(after) - array.ndim)
            if 0 <= own < array.ndim and array.shape[own] == self.batch:
                set_input(node, place, self._once(value, own))

    def _once(self, value: ir.Value, axis: int) -> ir.Value:
        """Cut a constant that is the same for every sample to that of one."""
        assert value.const_value is not None
        array = value.const_value.numpy()
        first = np.take(array, [0], axis=axis)
        if array.shape[axis] != self.batch or not np.array_equal(np.broadcast_to(first, array.shape), array):
            raise BatchError(f"the constant '{value.name}' differs from sample to sample")
        made = add_constant(self._graph, f"{value.name}_once", first)
        self.single[made] = self.double[made] = first.shape
        return made

    def _repeated(self, value: ir.Value, axis: int) -> ir.Value:
        """Repeat a constant along the open batch."""
        once = self._once(value, axis)
        rank = len(self.single[once])
        ones = [
            add_constant(self._graph, f"{value.name}_ones_{side}", np.ones(count, np.int64))
            for side, count in (("before", axis), ("behind", rank - axis - 1))
        ]
        shape = self._append("Concat", [ones[0], self._counted(), ones[1]], f"{value.name}_shape", (rank,), {"axis": 0})
        repeated = self._append("Expand", [once, shape], f"{value.name}_repeated", self.single[once], {})
        assert value.dtype is not None
        set_type(repeated, value.dtype, None)
        sizes = self.single[once]
        self.single[repeated] = (*sizes[:axis], self.batch, *sizes[axis + 1 :])
        self.double[repeated] = (*sizes[:axis], 2 * self.batch, *sizes[axis + 1 :])
        opened: list[int | str] = list(sizes)
        opened[axis] = "batch"
        repeated.shape = ir.Shape(opened)
        return repeated

    def _counted(self) -> ir.Value:
        """Return the size of the batch, as a vector of one."""
        if self._count is None:
            assert self._lead is not None
            value, axis = self._lead
            self._count = self._append("Shape", [value], "batch_size", (1,), {"start": axis, "end": axis + 1})
        return self._count

    def _append(
        self, operator: str, inputs: list[ir.Value], name: str, sizes: Sizes, numbers: Mapping[str, int]
    ) -> ir.Value:
        """Add a node in front of all that read what is made here."""
        value = ir.Value(name=free_name(self._graph, name))
        set_type(value, ir.DataType.INT64, ir.Shape(sizes))
        given = {key: ir.AttrInt64(key, number) for key, number in numbers.items()}
        node = ir.Node(
            "", operator, inputs, attributes=given, outputs=[value], name=free_node_name(self._graph, f"{name}_node")
        )
        makers = [made for one in inputs if (made := one.producer()) is not None]
        if makers:
            self._graph.insert_after(makers[-1], node)
        else:
            self._graph.insert_before(self._graph[0], node)
        self.single[value] = self.double[value] = sizes
        return value

    def _infer(self, node: ir.Node) -> None:
        """Infer the shapes of a node's outputs for the double batch."""
        if not is_standard(node, node.op_type):
            raise BatchError(f"{node.op_type} '{node.name}' may decide for a batch as a whole")
        schema = onnx.defs.get_schema(node.op_type, self._version)
        types, data = {}, {}
        for value in node.inputs:
            if value is None:
                continue
            sizes = self.double[value] if value in self.double else _static(value)
            kind = int(value.dtype or ir.DataType.FLOAT)
            types[str(value.name)] = onnx.helper.make_tensor_type_proto(kind, list(sizes))
            if value.const_value is not None and value.const_value.size <= _SMALL:
                data[str(value.name)] = ir.serde.serialize_tensor(value.const_value)
        imports = [onnx.helper.make_opsetid("", self._version)]
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, ir.serde.serialize_node(node), types, data, opset_imports=imports
            )
        except Exception as error:  # the C++ core raises bare errors
            raise BatchError(f"{node.op_type} '{node.name}' does not take another batch: {error}") from error
        for output in node.outputs:
            if output.name:
                self.double[output] = self._sizes_of(node, output, found.get(output.name))
                self._annotate(output)

    def _sizes_of(self, node: ir.Node, output: ir.Value, found: onnx.TypeProto | None) -> Sizes:
        if found is not None and found.tensor_type.HasField("shape"):
            dims = found.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                return tuple(dim.dim_value for dim in dims)
        source = node.inputs[0]
        if source is not None and self.single.get(source) == self.single[output]:
            return self.double[source]  # ONNX cannot infer it, and it has kept the shape
        raise BatchError(f"the shape of '{output.name}' behind {node.op_type} '{node.name}' cannot be inferred")

    def _annotate(self, output: ir.Value) -> None:
        if len(self.single[output]) != len(self.double[output]):
            raise BatchError(f"the rank of '{output.name}' depends on the batch")
        pairs = zip(self.single[output], self.double[output], strict=True)
        sizes: list[int | str | None] = [one if one == two else None for one, two in pairs]
        axis = self.axis(output)
        if sizes.count(None) > 1:
            raise BatchError(f"'{output.name}' holds the batch along several axes")
        if axis is not None and self.single[output][axis] == self.batch:
            sizes[axis] = "batch"
        output.shape = ir.Shape(sizes)


def _static(value: ir.Value) -> Sizes:
    if value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    if value.shape is None or not value.shape.is_static():
        raise BatchError(f"the shape of '{value.name}' is not known")
    return tuple(value.shape.numpy())
