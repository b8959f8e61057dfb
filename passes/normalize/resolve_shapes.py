"""Resolve sizes that a graph computes from shapes into constants, the batch staying open.

    Reshape(x, Concat(Gather(Shape(x), 0), -1))          ->  Reshape(x, [0, -1])
    Resize(x, sizes=Concat(Shape(x)[:2], Shape(y)[2:]))  ->  Resize(x, scales=[1, 1, h, w])
    any integer vector made of known sizes alone         ->  initializer

A dimension is an int, or the name of one that is open; arithmetic on named ones is not followed.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.graph_pass import GraphPass
from passes.surgery import add_constant, input_at, is_standard

Sizes = NDArray[np.object_]  # rank 0 or 1; an element is an int, the name of an open dimension, or None
_MAX_ELEMENTS = 64


class ResolveShapes(GraphPass):
    """Follow shape arithmetic: Shape, Gather, Slice, Concat, Unsqueeze, Squeeze, Cast, Add, Sub, Mul, Div, constants.

    1. Results that are known altogether become initializers.
    2. The shape of a Reshape may have open dimensions: one equal to the input's at the same place becomes 0 (copy), and
       one other becomes -1 (the rest).
    3. The sizes of a Resize may have open dimensions that equal the input's; what is left is written as scales.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Resolve all nodes, in graph order; shapes must have been inferred."""
        known: dict[ir.Value, Sizes | None] = {}
        modified = False
        for node in list(model.graph):
            if is_standard(node, "Reshape"):
                modified |= _reshape(model.graph, node, known)
            elif is_standard(node, "Resize"):
                modified |= _resize(model.graph, node, known)
            elif is_standard(node, *_RULES):
                modified |= _freeze(model.graph, node, known)
        return ir.passes.PassResult(model, modified)


def _sizes(value: ir.Value | None, known: dict[ir.Value, Sizes | None]) -> Sizes | None:
    if value is None:
        return None
    if value not in known:
        known[value] = None
        constant = value.const_value
        node = value.producer()
        if constant is not None:
            array = constant.numpy()
            if array.ndim <= 1 and array.size <= _MAX_ELEMENTS and np.issubdtype(array.dtype, np.integer):
                known[value] = _objects(array.tolist())
        elif node is not None and is_standard(node, *_RULES):
            known[value] = _evaluate(node, known)
    return known[value]


def _objects(items: object) -> Sizes:
    return np.array(items, dtype=np.object_)


def _evaluate(node: ir.Node, known: dict[ir.Value, Sizes | None]) -> Sizes | None:
    if is_standard(node, "Shape"):
        return _shape(node)
    inputs = [_sizes(value, known) for value in node.inputs]
    present = [array for array in inputs if array is not None]
    if len(present) != len(inputs):
        return None
    try:
        result = _RULES[node.op_type](node, present)
    except (IndexError, ValueError, TypeError, ZeroDivisionError):
        return None  # an index or a size that is open itself
    return result if result is not None and result.ndim <= 1 and result.size <= _MAX_ELEMENTS else None


def _shape(node: ir.Node) -> Sizes | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        return None
    sizes = [size if isinstance(size, int) else size.value for size in shape]
    end = node.attributes.get_int("end", len(sizes))
    return _objects(sizes[node.attributes.get_int("start", 0) : end])


def _slice(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
    starts, ends = (int(array.reshape(-1)[0]) for array in inputs[1:3])
    step = int(inputs[4].reshape(-1)[0]) if len(inputs) > 4 else 1
    # ONNX writes "up to and with the first" as an end below -size when it goes backwards
    return inputs[0][starts : None if step < 0 and ends < -inputs[0].size else ends : step]


def _cast(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
    kind = node.attributes.get_int("to", int(ir.DataType.INT64))
    return inputs[0] if kind in (ir.DataType.INT32, ir.DataType.INT64) else None


def _arithmetic(node: ir.Node, inputs: list[Sizes]) -> Sizes | None:
    left, right = (array.astype(np.int64) for array in inputs)  # raises on an open dimension
    if node.op_type == "Div":
        # ONNX divides integers towards zero, numpy towards minus infinity
        return _objects((left // right).tolist()) if (left >= 0).all() and (right > 0).all() else None
    return _objects({"Add": left + right, "Sub": left - right, "Mul": left * right}[node.op_type].tolist())


_RULES: dict[str, Callable[[ir.Node, list[Sizes]], Sizes | None]] = {
    "Shape": lambda node, _: _shape(node),
    "Gather": lambda _, inputs: _objects(inputs[0][inputs[1].astype(np.int64)]),
    "Slice": _slice,
    "Concat": lambda _, inputs: np.concatenate(inputs),
    "Unsqueeze": lambda _, inputs: inputs[0].reshape(1) if inputs[0].ndim == 0 and inputs[1].size == 1 else None,
    "Squeeze": lambda _, inputs: inputs[0].reshape(()) if inputs[0].shape == (1,) else None,
    "Cast": _cast,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
}


def _freeze(graph: ir.Graph, node: ir.Node, known: dict[ir.Value, Sizes | None]) -> bool:
    """Rule 1; nodes of constant inputs are left to FoldConstants."""
    output = node.outputs[0]
    sizes = _sizes(output, known)
    if sizes is None or output.is_graph_output() or not output.uses() or output.dtype is None:
        return False
    if not all(isinstance(size, int) for size in sizes.reshape(-1)) or not output.dtype.is_integer():
        return False
    array = sizes.astype(output.dtype.numpy())
    constant = add_constant(graph, f"{output.name}_known", array)
    known[constant] = sizes
    output.replace_all_uses_with(constant)
    return True


def _reshape(graph: ir.Graph, node: ir.Node, known: dict[ir.Value, Sizes | None]) -> bool:
    source, target = node.inputs[0], node.inputs[1]
    sizes = _sizes(target, known)
    if source is None or target is None or target.const_value is not None or sizes is None or sizes.ndim != 1:
        return False
    if node.attributes.get_int("allowzero", 0):
        return False
    shape = list(source.shape) if source.shape is not None else []
    wanted: list[int] = []
    for position, size in enumerate(sizes):
        if isinstance(size, int):
            wanted.append(size)
        else:
            same = size is not None and position < len(shape) and _name(shape[position]) == size
            wanted.append(0 if same else -1)
    if wanted.count(-1) > 1:
        return False
    node.replace_input_with(1, add_constant(graph, f"{node.name}.shape", np.array(wanted, np.int64)))
    return True


def _resize(graph: ir.Graph, node: ir.Node, known: dict[ir.Value, Sizes | None]) -> bool:
    source, target = node.inputs[0], input_at(node, 3)
    sizes = _sizes(target, known)
    if source is None or source.shape is None or target is None or target.const_value is not None or sizes is None:
        return False
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch" or "axes" in node.attributes:
        return False
    scales: list[np.float32] = []
    for size, old in zip(sizes, source.shape, strict=True):
        if isinstance(size, int) and isinstance(old, int) and old > 0:
            scales.append(np.float32(size / old))
            if int(np.floor(np.float32(old) * scales[-1])) != size:
                return False
        elif size is not None and size == _name(old):
            scales.append(np.float32(1.0))
        else:
            return False
    node.replace_input_with(2, add_constant(graph, f"{node.name}.scales", np.array(scales, np.float32)))
    node.resize_inputs(3)
    return True


def _name(size: object) -> str | None:
    return None if isinstance(size, int) else getattr(size, "value", None)
