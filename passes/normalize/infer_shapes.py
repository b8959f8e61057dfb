"""Infer the shape of every value, with only what the inputs leave open left open where the graph allows."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from passes.graph_pass import GraphPass
from passes.normalize.infer_bodies import annotate_loops
from passes.operators import STANDARD_DOMAINS

Sizes = list[int | str | None]
Trial = Mapping[str, Sequence[int]]
_WITHOUT_RULE = ("GroupNormalization",)  # onnx cannot infer them; what they make is like their first input
_SMALL = 1024  # elements; larger initializers cannot be sizes, and need not travel to the inference


class InferShapes(GraphPass):
    """Infer the shape of every value anew with ONNX's own inference.

    1. Once with the graph as it is.
    2. If sizes beside the batch stay open, once more with every open batch set to 2 and once to 3: what comes out equal
       does not depend on the batch, and is taken over. ``trials`` are sets of sizes, by name of the input, to take
       instead where more than the batch is open.
    3. What cannot be inferred keeps the annotation it had.
    """

    def __init__(self, trials: Sequence[Trial] = ()) -> None:
        self._trials = trials

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infer; annotations of the main graph change, nothing else."""
        values = [value for node in model.graph for value in node.outputs if value.name]
        proto = _skeleton(model)
        found, types = _infer(proto, None)
        is_open = bool(self._trials) or _has_open_batch(proto)
        if is_open and any(not _is_settled(found.get(value.name or "")) for value in values):
            trials = self._trials or (_with_batch(proto, 2), _with_batch(proto, 3))
            inferred = [_infer(proto, trial)[0] for trial in trials]
            for name in inferred[0]:
                found[name] = _merge(found.get(name), [one.get(name, []) for one in inferred])
        modified = False
        for value in values:
            name = value.name or ""
            modified |= _annotate(value, found.get(name), types.get(name, ir.DataType.UNDEFINED))
        return ir.passes.PassResult(model, modified)


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    """Return the graph without large weights, which conversion would copy, and without annotations of inner values.

    Operators that onnx has no rule for are an Identity.
    """
    large = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.size > _SMALL
        and value.const_value.dtype.is_floating_point()
    }
    # one element in the place of a weight, which then gets the sizes of the weight and no numbers
    for name, tensor in large.items():
        model.graph.initializers[name].const_value = ir.Tensor(
            np.zeros(1, tensor.dtype.numpy()), dtype=tensor.dtype, name=name
        )
    try:
        proto = ir.to_proto(model)
    finally:
        for name, tensor in large.items():
            model.graph.initializers[name].const_value = tensor
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        if node.op_type in _WITHOUT_RULE and node.domain in STANDARD_DOMAINS:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    for small in proto.graph.initializer:
        if small.name in large:
            small.ClearField("raw_data")
            del small.dims[:]
            small.dims.extend(large[small.name].shape.numpy())
    return proto


def _with_batch(proto: onnx.ModelProto, batch: int) -> Trial:
    """Sizes of inputs with their open batch set; what else is open stays so, as -1."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
    return {
        name: [dim.dim_value if dim.HasField("dim_value") else -1 if axis else batch for axis, dim in enumerate(dims)]
        for name, dims in shapes.items()
    }


def _infer(proto: onnx.ModelProto, sizes: Trial | None) -> tuple[dict[str, Sizes], dict[str, ir.DataType]]:
    """Shapes and element types by value name, with the inputs' sizes set where they are given."""
    trial = onnx.ModelProto()
    trial.CopyFrom(proto)
    for value in trial.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, (sizes or {}).get(value.name, ()), strict=False):
            if size > 0:
                dim.dim_value = size
    for value in trial.graph.output:
        value.type.tensor_type.ClearField("shape")
    trial = _run(trial)
    while annotate_loops(trial):
        trial = _run(trial)
    values = [*trial.graph.value_info, *trial.graph.output]
    shapes: dict[str, Sizes] = {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in values
        if value.type.tensor_type.HasField("shape")
    }
    return shapes, {value.name: ir.DataType(value.type.tensor_type.elem_type) for value in values}


def _run(proto: onnx.ModelProto) -> onnx.ModelProto:
    for propagate in (True, False):  # propagating the values of sizes fails on some graphs
        try:
            return onnx.shape_inference.infer_shapes(proto, data_prop=propagate)
        except onnx.shape_inference.InferenceError:
            continue
    return proto


def _is_settled(sizes: Sizes | None) -> bool:
    return sizes is not None and all(isinstance(size, int) for size in sizes[1:])


def _has_open_batch(proto: onnx.ModelProto) -> bool:
    shapes = [value.type.tensor_type.shape.dim for value in proto.graph.input]
    return any(dims and not dims[0].HasField("dim_value") for dims in shapes)


def _merge(found: Sizes | None, trials: Sequence[Sizes]) -> Sizes:
    if len(set(map(len, trials))) > 1:
        return found or []
    fixed: Sizes = [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*trials, strict=True)]
    if found is None or len(found) != len(fixed):
        return fixed
    return [
        size if isinstance(size, int) or better is None else better for size, better in zip(found, fixed, strict=True)
    ]


def _annotate(value: ir.Value, sizes: Sizes | None, dtype: ir.DataType) -> bool:
    modified = False
    if dtype != ir.DataType.UNDEFINED and value.dtype != dtype:
        value.dtype = dtype
        modified = True
    if sizes is None:
        return modified
    if value.is_graph_output() and value.shape is not None and len(value.shape) == len(sizes):
        # keep the user's names of open sizes
        sizes = [
            size if isinstance(size, int) else ours if isinstance(ours, int) else ours.value
            for size, ours in zip(sizes, value.shape, strict=True)
        ]
    shape = ir.Shape(sizes)
    if value.shape != shape:
        value.shape = shape
        modified = True
    return modified
