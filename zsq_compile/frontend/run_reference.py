"""Run the user's graph in ONNX Runtime, at a batch at which it runs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx

from backends.session import RuntimeModelError
from zsq_compile.errors import LoadError
from zsq_compile.frontend.choose_sizes import ChosenSizes
from zsq_compile.frontend.equivalence import Reference
from zsq_compile.frontend.input_shapes import fix_batch, with_batch
from zsq_compile.frontend.read_onnx import walk_nodes

_SHAPED = ("Reshape", "Expand", "Tile", "ConstantOfShape")
_SHAPE_ELEMENTS = 16
_LARGEST_BATCH = 64


def run_reference(
    proto: onnx.ModelProto, path: Path, sizes: ChosenSizes, notes: list[str]
) -> tuple[onnx.ModelProto, ChosenSizes, Reference]:
    """Run a graph on batches of 2 and 3; fix an open batch to one that runs where these do not.

    Returns:
        The graph, with a fixed batch if need be, the sizes of its inputs, and its outputs.

    Raises:
        LoadError: it does not run at any batch; the message is that of the graph as it was given.

    """
    try:
        return proto, sizes, Reference(proto, sizes.inputs, others=sizes.others)
    except RuntimeModelError as error:
        failure = error
    if any(None in spec.shape for spec in sizes.inputs) and (found := _fix_batch(proto, sizes)) is not None:
        fixed, batch, reference = found
        notes.append(
            f"the file declares an open batch, but runs with a batch of {batch} only: the batch was fixed to {batch}"
        )
        return fixed, _with_batch(sizes, batch), reference
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
