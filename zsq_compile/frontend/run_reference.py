"""Run the user's graph in ONNX Runtime, in the way in which it can be run at all: its batch, its opset."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx

from backends.session import RuntimeModelError
from zsq_compile.errors import LoadError
from zsq_compile.frontend.choose_sizes import ChosenSizes
from zsq_compile.frontend.equivalence import Reference
from zsq_compile.frontend.input_shapes import fix_batch, with_batch
from zsq_compile.frontend.opset import MINIMUM_OPSET, OpsetError, convert_opset
from zsq_compile.frontend.read_onnx import walk_nodes

_SHAPED = ("Reshape", "Expand", "Tile", "ConstantOfShape")
_SHAPE_ELEMENTS = 16
_LARGEST_BATCH = 64


def run_reference(
    proto: onnx.ModelProto, path: Path, sizes: ChosenSizes, opset: int, notes: list[str]
) -> tuple[onnx.ModelProto, int, ChosenSizes, Reference]:
    """Run a graph on batches of 2 and 3; fix an open batch, and lower the opset, where it does not run without.

    Returns:
        The graph, its opset, the sizes of its inputs, and its outputs; only a fixed batch changes the graph itself.

    Raises:
        LoadError: it does not run in any of these ways; the message is that of the graph as it was given.

    """
    try:
        return proto, opset, sizes, Reference(proto, sizes.inputs, others=sizes.others)
    except RuntimeModelError as error:
        failure = error
    if any(None in spec.shape for spec in sizes.inputs) and (found := _fix_batch(proto, sizes)) is not None:
        fixed, batch, reference = found
        notes.append(
            f"the file declares an open batch, but runs with a batch of {batch} only: the batch was fixed to {batch}"
        )
        return fixed, opset, _with_batch(sizes, batch), reference
    # a runtime may load an opset, and still lack kernels of it (ONNX Runtime 1.32: Swish from 25 on)
    for earlier in range(opset - 1, MINIMUM_OPSET - 1, -1):
        try:
            lowered = convert_opset(proto, opset, earlier)
            reference = Reference(lowered, sizes.inputs, others=sizes.others)
        except (OpsetError, RuntimeModelError):
            continue
        notes.append(f"opset {opset} was lowered to {earlier}, as ONNX Runtime does not run the file as it is")
        return lowered, earlier, sizes, reference
    raise LoadError(f"{path} cannot be run: {failure}") from failure


def _fix_batch(proto: onnx.ModelProto, sizes: ChosenSizes) -> tuple[onnx.ModelProto, int, Reference] | None:
    """Fix the batch to one that runs, best to one that comes out of the graph again; None where there is none."""
    running = None
    for batch in _likely_batches(proto):
        fixed = onnx.ModelProto()
        fixed.CopyFrom(proto)
        fix_batch(fixed, sizes.inputs, batch)
        known = _with_batch(sizes, batch)
        try:
            reference = Reference(fixed, known.inputs, others=known.others)
        except RuntimeModelError:
            continue
        running = running or (fixed, batch, reference)
        if reference.has_leading(batch):
            return fixed, batch, reference
    return running


def _with_batch(sizes: ChosenSizes, batch: int) -> ChosenSizes:
    others = tuple(with_batch(inputs, batch) for inputs in sizes.others)
    return replace(sizes, inputs=with_batch(sizes.inputs, batch), others=others)


def _likely_batches(proto: onnx.ModelProto) -> list[int]:
    """1, and what the constant shapes of the graph begin with, the most frequent first."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in walk_nodes(proto.graph):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    found = [size for node in walk_nodes(proto.graph) if node.op_type in _SHAPED for size in _leading(node, constants)]
    return list(dict.fromkeys([1, *sorted(set(found), key=lambda size: (-found.count(size), size)), 2, 3]))


def _leading(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Iterator[int]:
    """Yield the first size of a constant shape that a node reads, where it may be a batch."""
    name = node.input[0 if node.op_type == "ConstantOfShape" else 1] if node.input else ""
    tensor = constants.get(name)
    if tensor is None or len(tensor.dims) != 1 or not 0 < tensor.dims[0] <= _SHAPE_ELEMENTS:
        return
    first = int(onnx.numpy_helper.to_array(tensor)[0])
    if 1 < first <= _LARGEST_BATCH:
        yield first
